// Data: one block, base64 of gzip: the length of a description, the description as JSON, then planes of bytes.

/** Read the block of a page. Returns {about, bytes, cache}. */
async function readBlock(text) {
  const packed = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(raw.buffer).getUint32(0, true);
  const about = JSON.parse(new TextDecoder().decode(raw.subarray(4, 4 + length)));
  return { about, bytes: raw.subarray(4 + length), cache: new Map() };
}

const number = (value) => (value === "NaN" ? NaN : Number(value));
const product = (sizes) => sizes.reduce((a, b) => a * b, 1);

const HALVES = new Float64Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) HALVES[bits] = fraction ? NaN : sign * Infinity;
  else HALVES[bits] = sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

const READERS = {
  f8: (bytes) => new Float64Array(bytes.buffer),
  f4: (bytes) => new Float32Array(bytes.buffer),
  f2: (bytes, scale) => Float64Array.from(new Uint16Array(bytes.buffer), (bits) => HALVES[bits] * scale),
  i1: (bytes, scale) => Float64Array.from(new Int8Array(bytes.buffer), (value) => value * scale),
  i4: (bytes) => new Int32Array(bytes.buffer),
  u1: (bytes) => bytes,
};

const PRECISION = {
  f8: "float64, exact", f4: "float32, exact", f2: "to 11 bits (about 3 digits)", i1: "to 1/254 of the largest",
  i4: "whole numbers", u1: "booleans", product: "multiplied out here, from dy and x",
};

/** How many digits of an array's numbers mean something. */
const digitsOf = (array) => ({ f2: 4, i1: 3, product: 5 }[array.code] || 7);

/** Return an array: {shape: of what the page holds, full: of the library's, data, code, stats}. */
function tensor(page, index) {
  if (!page.cache.has(index)) page.cache.set(index, decode(page, page.about.tensors[index]));
  return page.cache.get(index);
}

function decode(page, entry) {
  const found = { shape: entry.cut || entry.shape, full: entry.shape, code: entry.code, stats: entry.stats };
  if (entry.code === "product") {
    found.data = multiplied(tensor(page, entry.product.left), tensor(page, entry.product.right), entry.shape);
    return found;
  }
  const count = product(found.shape), width = Number(entry.code[1]);
  const planes = page.bytes.subarray(entry.offset, entry.offset + count * width), bytes = new Uint8Array(count * width);
  for (let plane = 0; plane < width; plane++)
    for (let i = 0; i < count; i++) bytes[i * width + plane] = planes[plane * count + i];
  found.data = READERS[entry.code](bytes, entry.scale);
  return found;
}

/** dW = dyᵀ x over all rows. */
function multiplied(dy, x, [outs, ins]) {
  const rows = dy.data.length / outs, data = new Float64Array(outs * ins);
  for (let r = 0; r < rows; r++)
    for (let o = 0; o < outs; o++) {
      const factor = dy.data[r * outs + o];
      for (let i = 0; i < ins; i++) data[o * ins + i] += factor * x.data[r * ins + i];
    }
  return data;
}

/** The place of an index in the numbers of an array; -1 where the page does not hold it. */
function flat(array, index) {
  let place = 0;
  for (let axis = 0; axis < array.shape.length; axis++) {
    if (index[axis] >= array.shape[axis]) return -1;
    place = place * array.shape[axis] + index[axis];
  }
  return place;
}

const at = (array, index) => {
  const place = flat(array, index);
  return place < 0 ? undefined : array.data[place];
};
