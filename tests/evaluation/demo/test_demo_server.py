"""The server of the page: what it answers, and how it refuses what is no image or comes from elsewhere."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from PIL import Image

from deeplab2_lite import cli
from deeplab2_lite.data.record_format import encode_png
from deeplab2_lite.errors import UserError
from deeplab2_lite.evaluation.demo.server import DemoServer

from .colour_model import CAR, SCORES, panoptic_of, scene, segment, served

UPLOAD = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def server():
    with served() as running:
        yield running


def request(server, method, path, body=None, headers=None):
    """Returns status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def send(server, encoded, name="a.png", headers=UPLOAD):
    status, _, body = request(server, "POST", f"/segment?name={quote(name)}", encoded, headers)
    return status, json.loads(body)


def decoded(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def ids_of(picture):
    return picture.astype(np.int64) @ [1, 256, 65536]


# ---- what is answered


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/picture.js"])
def test_the_page_needs_nothing_from_elsewhere(server, path):
    status, headers, body = request(server, "GET", path)
    assert status == 200 and len(body) > 1000
    assert b"http://" not in body and b"https://" not in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_model_is_described(server):
    facts = json.loads(request(server, "GET", "/model")[2])
    assert facts["classes"][CAR] == {"name": "car", "isthing": True, "color": [0, 0, 142]}
    assert (facts["label_divisor"], facts["max_bytes"], facts["samples"]) == (1000, 200_000, [])


def test_an_answer_is_the_map(server):
    image = scene()
    status, answer = send(server, encode_png(image), "street 1.png")
    assert status == 200
    expected = panoptic_of(image)
    np.testing.assert_array_equal(ids_of(decoded(answer["panoptic"])), np.where(expected == 255000, 0, expected + 1))
    semantic = ids_of(decoded(answer["semantic"]))
    np.testing.assert_array_equal(semantic, np.where(expected == 255000, 4, expected // 1000))
    assert np.abs(decoded(answer["image"]).astype(int) - image).mean() < 3
    coco = answer["coco"]
    assert coco["images"] == [{"id": "street 1", "file_name": "street 1.png", "height": 60, "width": 90}]
    segments = {s["id"]: s for s in coco["annotations"][0]["segments_info"]}
    assert sorted(segments) == [3001, 4001, 6002, 6003]
    assert segments[6003] == {
        "id": 6003, "category_id": 6, "area": 400, "bbox": [40, 30, 20, 20], "iscrowd": 0, "score": 0.25
    }  # fmt: skip
    assert segments[6002]["score"] == SCORES[6001] and "score" not in segments[3001]
    assert answer["colors"]["3001"] == [107, 142, 35] and answer["colors"]["6002"] != answer["colors"]["6003"]


def test_heads_are_layers(server):
    answer = send(server, encode_png(scene()))[1]
    car = panoptic_of(scene()) == 6001
    heatmap, offsets = decoded(answer["heatmap"]), decoded(answer["offsets"])
    np.testing.assert_array_equal(heatmap[..., 3], 255 * car)
    is_thing = panoptic_of(scene()) // 1000 == CAR
    np.testing.assert_array_equal(offsets[..., 3], 255 * is_thing)
    assert (offsets[is_thing][:, :3] == (255, 0, 0)).all() and answer["offset_length"] == 5
    assert decoded(answer["probability"])[0, [0, 89]].tolist() == [0, 255]


def test_an_export_has_no_heads():
    with served(lambda image: segment(image, with_heads=False)) as server:
        status, answer = send(server, encode_png(scene()))
    assert status == 200
    assert not {"heatmap", "offsets", "probability"} & set(answer)


def test_images_are_turned_upright(server):
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.fromarray(np.rot90(scene()).copy()).save(stream, "JPEG", quality=95, exif=exif)
    answer = send(server, stream.getvalue())[1]
    assert (answer["height"], answer["width"]) == (60, 90)
    found = ids_of(decoded(answer["panoptic"]))
    assert (found == panoptic_of(scene()) + 1).mean() > 0.9


def test_samples_are_offered(tmp_path):
    Image.fromarray(scene()).save(tmp_path / "b.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    with served(samples=[tmp_path / "b.png", tmp_path / "bad.png"]) as server:
        assert json.loads(request(server, "GET", "/model")[2])["samples"] == ["b.png", "bad.png"]
        status, headers, body = request(server, "GET", "/samples/0")
        assert status == 200 and headers["Content-Type"] == "image/jpeg"
        assert Image.open(io.BytesIO(body)).size == (160, 107)
        status, _, body = request(server, "POST", "/segment?sample=0", b"", UPLOAD)
        assert status == 200 and json.loads(body)["coco"]["images"][0]["file_name"] == "b.png"
        for path, message in (
            ("0x1", "sample: expected a number"),
            ("9", "there is no sample 9"),
            ("1", "bad.png: not"),
        ):
            status, _, body = request(server, "POST", f"/segment?sample={path}", b"", UPLOAD)
            assert status == 422 and json.loads(body)["error"].startswith(message)
        assert request(server, "GET", "/samples/9")[0] == 422
        assert request(server, "GET", "/samples/../pyproject.toml")[0] == 404


# ---- bad images


def png_head(width, height):
    """A PNG that says how large it is, and holds no pixel."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def damaged_images():
    whole = encode_png(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    transparent = io.BytesIO()
    Image.new("RGBA", (5, 5), (1, 2, 3, 4)).save(transparent, "PNG")
    return {
        "text": (b"hello", "a.png: not an image"),
        "html": (b"<html><script>alert(1)</script>", "a.png: not an image"),
        "nothing": (b"", "a.png: is empty (0 bytes); expected an image"),
        "zeros": (bytes(1000), "a.png: not an image"),
        "cut off": (whole[: len(whole) // 2], "a.png: damaged or cut off"),
        "head alone": (whole[:40], "a.png: not an image"),
        "no pixels": (png_head(90, 60), "a.png: damaged or cut off"),
        "wide": (png_head(20_000, 4), "a.png: 20000 x 4 pixels; this page takes up to 0.1 million, and 16384 a side"),
        "many": (png_head(1000, 1000), "a.png: 1000 x 1000 pixels; this page takes up to 0.1 million"),
        "bomb": (png_head(60_000, 60_000), "a.png: more pixels than"),
        "transparent": (transparent.getvalue(), "a.png: has transparent pixels"),
    }


@pytest.mark.parametrize("kind", damaged_images())
def test_bad_images_end_in_one_line(server, kind):
    encoded, message = damaged_images()[kind]
    status, answer = send(server, encoded)
    assert status == 422
    assert answer["error"].startswith(message) and "\n" not in answer["error"]
    # The server goes on.
    assert send(server, encode_png(scene()))[0] == 200


def test_too_many_bytes_are_refused_with_a_message(server):
    status, answer = send(server, bytes(5_000_000))
    assert status == 413
    assert answer["error"] == "5.0 MB; this page takes images of up to 0.2 MB; reduce it first"


def test_an_upload_that_stops_is_refused(server):
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=30) as connection:
        host = f"127.0.0.1:{server.server_address[1]}"
        head = f"POST /segment HTTP/1.0\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").read()
    assert b" 400 " in answer.splitlines()[0]
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1]) == {"error": "cut off: 3 of 1000 bytes came"}


@pytest.mark.parametrize("length", [None, "-1", "many", "1e3"])
def test_a_length_must_be_told(server, length):
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=30) as connection:
        lines = ["POST /segment HTTP/1.0", "Host: localhost", "Content-Type: application/octet-stream"]
        lines += [] if length is None else [f"Content-Length: {length}"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = connection.makefile("rb").read()
    assert b" 411 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("../../etc/pass\nwd.png", "passwd.png"), ("C:\\my\\x.png", "x.png"), ("", "image"), ("ü" * 300, "ü" * 200)],
)
def test_names_of_files_are_only_names(server, given, expected):
    status, _, body = request(server, "POST", f"/segment?{urlencode({'name': given})}", b"x", UPLOAD)
    assert status == 422 and json.loads(body)["error"].startswith(f"{expected}: not an image")


# ---- who may ask


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Host": "localhost.evil.example"},
        {"Host": ""},
        {"Host": "["},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_requests_from_elsewhere_are_refused(server, headers):
    for method, path in (("GET", "/"), ("GET", "/model"), ("POST", "/segment")):
        status, _, body = request(server, method, path, b"x" if method == "POST" else None, {**UPLOAD, **headers})
        assert status == 403 and json.loads(body)["error"]


def test_this_machine_is_known_by_its_names(server):
    port = server.server_address[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        assert request(server, "GET", "/model", headers={"Host": host, "Origin": f"http://{host}"})[0] == 200


def test_forms_cannot_send(server):
    for kind in ("multipart/form-data", "text/plain", "application/x-www-form-urlencoded"):
        assert send(server, b"x", headers={"Content-Type": kind})[0] == 415


def test_what_is_not_there(server):
    for method, path in (("GET", "/server.py"), ("GET", "/../setup.py"), ("POST", "/"), ("GET", "/segment")):
        assert request(server, method, path)[0] == 404
    assert request(server, "PUT", "/segment")[0] == 501


# ---- one at a time, and faults


def test_images_wait_for_each_other():
    running, most = [], []

    def slow(image):
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return segment(image)

    with served(slow) as server:
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(send(server, encode_png(scene()))[0])) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [200] * 5 and most == [1] * 5


def test_a_fault_of_the_library_is_said_and_survived(capsys):
    def fail(image):
        if image.shape[0] == 60:
            raise ZeroDivisionError
        raise UserError("too little memory")

    with served(fail) as server:
        status, answer = send(server, encode_png(scene()))
        assert status == 500 and answer == {"error": "the server failed; where it was started it says why"}
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert send(server, encode_png(scene()[1:])) == (422, {"error": "too little memory"})


def test_nothing_is_written(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert send(server, encode_png(scene()))[0] == 200
    assert list(tmp_path.iterdir()) == []


# ---- the command


def test_a_port_that_is_taken(server):
    port = server.server_address[1]
    taken = rf"--port {port}: cannot listen on 127.0.0.1 \(Address already in use\); 0 takes a free one"
    with pytest.raises(UserError, match=taken):
        DemoServer(server.demo, "127.0.0.1", port)
    with pytest.raises(UserError, match="--port 99999: cannot listen"):
        DemoServer(server.demo, "127.0.0.1", 99999)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_megabytes=0"], "--max_megabytes: expected a positive number, got 0"),
        (["--max_megapixels=nan"], "--max_megapixels: expected a positive number, got nan"),
        (["--samples=/no/where"], "--input: no such file or folder: /no/where"),
    ],
)
def test_wrong_flags_end_in_one_line(words, message, capsys):
    assert cli.main(["demo", "--model=m", *words]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
