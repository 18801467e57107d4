"""Elements: texts are escaped, elements are not; numbers as people read them."""

from deeplab2_lite.evaluation.html.elements import Markup, element, number, percent, table


def test_texts_are_escaped_and_elements_are_not():
    assert element("p", "a < b & c", element("b", "<i>")) == "<p>a &lt; b &amp; c<b>&lt;i&gt;</b></p>"
    assert element("p", ["x", element("br")], title='"quoted"') == '<p title="&quot;quoted&quot;">x<br></p>'
    assert element("p", Markup("<i></i>")) == "<p><i></i></p>"


def test_attributes():
    assert element("td", class_="a", data_v="1", aria_label="b") == '<td class="a" data-v="1" aria-label="b"></td>'
    assert element("details", open=True, hidden=False, id=None) == "<details open></details>"
    assert element("circle", cx=1.5, r=3, viewBox="0 0 1 1") == '<circle cx="1.5" r="3" viewBox="0 0 1 1"></circle>'


def test_numbers():
    assert [percent(0.12345), percent(1.0), percent(float("nan"))] == ["12.3", "100.0", "\N{EN DASH}"]
    assert [number(1234567), number(0.5), number(float("nan"))] == ["1,234,567", "0.5", "\N{EN DASH}"]


def test_tables_scroll_by_keys_and_have_a_label():
    text = table("Figures", [element("th", "a", scope="col")], [[element("td", "1")]], class_="sortable")
    assert text.startswith('<div class="scroll" tabindex="0" role="region" aria-label="Figures"><table')
    assert "<tbody><tr><td>1</td></tr></tbody>" in text
