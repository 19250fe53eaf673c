// Sums: the numbers that a cell was made of. "* i, o i -> * o" is y = x Wᵀ; what the result lacks is summed over.

function expanded(axes, ranks, resultRank) {
  const [factors, result] = axes.split("->").map((part) => part.trim());
  const sides = [...factors.split(",").map((part) => part.trim().split(/\s+/)), result.split(/\s+/)];
  const spare = [...ranks, resultRank].map((rank, i) => rank - sides[i].length + 1);
  const star = Math.max(...sides.map((side, i) => (side.includes("*") ? spare[i] : 0)));
  const rows = Array.from({ length: star }, (_, i) => `*${i}`);
  return sides.map((side) => side.flatMap((letter) => (letter === "*" ? rows : [letter])));
}

/** Return the terms of a sum for one cell: {terms: [[left, right, where]], bias, scale, total}; null if a factor is cut. */
function sumOf(page, sum, index) {
  const result = tensor(page, sum.result), left = tensor(page, sum.left);
  const right = sum.right === null ? null : tensor(page, sum.right);
  const factors = right ? [left, right] : [left];
  const sides = expanded(sum.axes, factors.map((f) => f.full.length), result.full.length);
  const out = sides[sides.length - 1], fixed = {}, sizes = {};
  out.forEach((letter, axis) => { fixed[letter] = { place: index[axis], size: result.full[axis] }; });
  sides.slice(0, -1).forEach((side, f) => side.forEach((letter, axis) => {
    sizes[letter] = Math.max(sizes[letter] || 0, factors[f].full[axis]);
  }));
  // heads that share keys: an axis of the result with fewer places than the factors have is summed over its group
  const grouped = out.filter((letter) => sizes[letter] > fixed[letter].size);
  const free = [...Object.keys(sizes).filter((letter) => !(letter in fixed)), ...grouped];
  const terms = [], place = {};
  let total = 0, known = true;
  const visit = (depth) => {
    if (depth < free.length) {
      const letter = free[depth];
      const group = grouped.includes(letter) ? sizes[letter] / fixed[letter].size : 0;
      const first = group ? fixed[letter].place * group : 0, last = group ? first + group : sizes[letter];
      for (place[letter] = first; place[letter] < last; place[letter]++) visit(depth + 1);
      return;
    }
    const values = factors.map((factor, f) => at(factor, sides[f].map((letter, axis) => {
      const known_ = letter in place && free.includes(letter) ? place[letter] : fixed[letter].place;
      return Math.floor(known_ * factor.full[axis] / Math.max(sizes[letter], fixed[letter] ? fixed[letter].size : 0));
    })));
    if (values.includes(undefined)) { known = false; return; }
    const value = values.length > 1 ? values[0] * values[1] : values[0];
    if (!(values.length > 1 && (values[0] === 0 || values[1] === 0))) total += value;
    terms.push([values[0], values[1], free.map((letter) => place[letter]), value]);
  };
  visit(0);
  if (!known) return null;
  const bias = sum.bias === null ? 0 : at(tensor(page, sum.bias), index.slice(-1)) || 0;
  return { terms, bias, scale: sum.scale, total: total * sum.scale + bias, free, sides };
}

/** Return what a formula of single numbers reads at a cell: [[name, value]]. */
function operandsOf(page, node, point, index) {
  const found = [];
  const read = (name, place) => {
    const number_ = node.numbers[name];
    return number_ === undefined ? undefined : at(tensor(page, number_), place);
  };
  const rowOf = (name) => {
    const array = tensor(page, node.numbers[name]), width = array.full[array.full.length - 1];
    return Array.from({ length: width }, (_, i) => read(name, [...index.slice(0, -1), i]));
  };
  for (const [name, where] of point.operands) {
    const [kind, of] = where.split(":");
    let value;
    if (kind === "*c") value = read(name, index);
    else if (kind === "*") value = read(name, index.slice(0, -1));
    else if (kind === "c") value = read(name, index.slice(-1));
    else if (of.split(",").some((part) => node.numbers[part] === undefined)) value = undefined;
    else if (kind === "max") value = Math.max(...rowOf(of));
    else if (kind === "exp") {
      const row = rowOf(of), top = Math.max(...row);
      value = row.reduce((sum, x) => sum + Math.exp(x - top), 0);
    } else if (kind === "sum") {
      const [a, b] = of.split(",").map(rowOf);
      value = a.reduce((sum, x, i) => sum + (b[i] === 0 ? 0 : x * b[i]), 0);
    }
    if (value !== undefined) found.push([name, value]);
  }
  return found;
}
