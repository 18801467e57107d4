// The pixels of the page: maps of ids that came as PNG, and the layers that are made of them.

export const VOID = 0;
const LARGE_SIDE = 900;

// Returns the pixels of a data: URI, exactly as they were encoded (opaque PNG has no colour profile).
export async function pixelsOf(uri) {
  const image = await imageOf(uri);
  const [canvas, context] = makeCanvas(image.naturalWidth, image.naturalHeight);
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

export async function imageOf(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}

// Ids are R + 256 G + 65536 B.
export function idsOf(pixels) {
  const ids = new Uint32Array(pixels.width * pixels.height);
  const data = pixels.data;
  for (let i = 0; i < ids.length; i++) ids[i] = data[4 * i] | (data[4 * i + 1] << 8) | (data[4 * i + 2] << 16);
  return ids;
}

// Small images are enlarged by a whole factor, so that lines on them are thinner than their pixels.
export function scaleFor(width, height) {
  return Math.max(1, Math.ceil(LARGE_SIDE / Math.max(width, height)));
}

// Paints a map: colorOf gives [r, g, b] of an id, null leaves its pixels clear, "void" hatches them.
export function paint(ids, width, height, colorOf) {
  const [canvas, context] = makeCanvas(width, height);
  const picture = context.createImageData(width, height);
  const known = new Map();
  const stripe = Math.max(5, Math.round(Math.max(width, height) / 100));
  for (let i = 0; i < ids.length; i++) {
    let color = known.get(ids[i]);
    if (color === undefined) known.set(ids[i], (color = colorOf(ids[i])));
    if (color === null) continue;
    if (color === "void") {
      const isLine = ((i % width) + Math.floor(i / width)) % stripe === 0;
      color = isLine ? [160, 160, 160] : [0, 0, 0];
    }
    picture.data.set([color[0], color[1], color[2], 255], 4 * i);
  }
  context.putImageData(picture, 0, 0);
  return canvas;
}

// Draws lines along the borders of what isWanted says of an id, within a box [x, y, width, height].
export function contours(ids, width, height, scale, isWanted, style, box = [0, 0, width, height]) {
  const [canvas, context] = makeCanvas(width * scale, height * scale);
  const thickness = style.thickness * Math.max(1, Math.round((Math.max(width, height) * scale) / 900));
  const before = Math.floor(thickness / 2); // whole pixels: no half-transparent edges
  const [left, top] = [Math.max(0, box[0] - 1), Math.max(0, box[1] - 1)];
  const [right, bottom] = [Math.min(width, box[0] + box[2] + 1), Math.min(height, box[1] + box[3] + 1)];
  context.fillStyle = style.color;
  const differ = (a, b) => a !== b && (isWanted(a) || isWanted(b));
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const id = ids[y * width + x];
      if (x + 1 < right && differ(id, ids[y * width + x + 1])) {
        context.fillRect((x + 1) * scale - before, y * scale - before, thickness, scale + thickness);
      }
      if (y + 1 < bottom && differ(id, ids[(y + 1) * width + x])) {
        context.fillRect(x * scale - before, (y + 1) * scale - before, scale + thickness, thickness);
      }
    }
  }
  return canvas;
}

// The wheel of the offsets, as Python draws it: the colour at a place is that of an offset from the middle to there.
export function drawWheel(canvas) {
  const context = canvas.getContext("2d");
  const side = canvas.width;
  const picture = context.createImageData(side, side);
  for (let i = 0; i < side * side; i++) {
    const dx = ((i % side) + 0.5) / (side / 2) - 1;
    const dy = (Math.floor(i / side) + 0.5) / (side / 2) - 1;
    const length = Math.hypot(dx, dy);
    if (length > 1) continue;
    const hue = wheelColor(((Math.atan2(dy, dx) / (2 * Math.PI)) % 1 + 1) % 1);
    picture.data.set([...hue.map((value) => Math.round(255 * (1 - length * (1 - value)))), 255], 4 * i);
  }
  context.putImageData(picture, 0, 0);
}

function wheelColor(turn) {
  const anchors = [0, 15, 21, 25, 36, 49, 55].map((anchor) => anchor / 55);
  const channels = [[1, 1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0]];
  const next = Math.max(1, anchors.findIndex((anchor) => anchor >= turn));
  const share = (turn - anchors[next - 1]) / (anchors[next] - anchors[next - 1]);
  return channels.map((values) => values[next - 1] + share * (values[next] - values[next - 1]));
}

export function makeCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
}
