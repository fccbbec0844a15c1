"use strict";
// Sorting works on every table; filters count the leaderboard again from the rows of the page.

for (const table of document.querySelectorAll(".sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("[aria-sort]");
    if (head) sort(table, head, head.ariaSort === "ascending" ? "descending" : "ascending");
  });
}

function sort(table, head, order) {
  for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.ariaSort = "none";
  head.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  const lines = [...table.tBodies[0].rows].map((line) => [key(line.cells[head.cellIndex]), line]);
  lines.sort(([a], [b]) => (a === null) - (b === null) || sign * compare(a, b));
  table.tBodies[0].append(...lines.map(([, line]) => line));
}

function key(cell) {
  const text = cell.dataset.value ?? "";
  return text === "" ? null : isNaN(text) ? text : Number(text);
}

function compare(a, b) {
  if (a === null || b === null) return 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

const told = document.getElementById("rows");
if (told) {
  const { student, measures, rows } = JSON.parse(told.textContent);
  const names = ["defense", "attack", "arch", "rate", "budget", "seed", "status"];
  const numbers = ["acc", "asr", "ra", "der", "seconds", ...measures];
  const filters = [...document.querySelectorAll("[data-filter]")];
  const board = document.getElementById("board");
  const every = rows.map((row) => {
    const found = { flags: row[names.length + numbers.length] };
    [...names, ...numbers].forEach((name, place) => (found[name] = row[place]));
    return found;
  });

  const chosen = () => filters.filter((filter) => filter.value).map((f) => [f.dataset.filter, f.value]);
  const clean = (row) => row.attack.split(" ")[0] === "none";
  // A clean model has neither an attack nor a rate, so those filters leave it.
  const fits = (row) => chosen().every(([name, value]) =>
    row[name] === value || (clean(row) && (name === "attack" || name === "rate")));

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // The same as report/spread.py: every group counts the same, the spread over seeds is pooled.
  function spread(parts) {
    const given = parts.filter((values) => values.length);
    if (!given.length) return null;
    const means = given.map(mean), n = Math.min(...given.map((values) => values.length));
    const freedom = given.reduce((sum, values) => sum + values.length - 1, 0);
    if (!freedom) return { mean: mean(means), half: null, n };
    const squares = given.flatMap((values, g) => values.map((value) => (value - means[g]) ** 2));
    const share = given.reduce((sum, values) => sum + 1 / values.length, 0) / given.length ** 2;
    const variance = squares.reduce((sum, value) => sum + value, 0) / freedom * share;
    return { mean: mean(means), half: (student[freedom - 1] ?? 1.96) * Math.sqrt(variance), n };
  }

  function together(own) {
    const groups = new Map();
    for (const row of own) {
      if (row.status !== "done") continue;
      const name = [row.arch, row.attack, row.rate, row.budget].join("\n");
      groups.set(name, [...(groups.get(name) ?? []), row]);
    }
    const parts = [...groups.values()];
    const over = (name) => spread(parts.map((list) => list.map((row) => row[name]).filter((v) => v !== null)));
    return Object.fromEntries(numbers.map((name) => [name, over(name)]));
  }

  const hundred = (value) => (100 * value).toFixed(1);
  const half = (value) => (value < 0.5 ? hundred(value) : "50+");

  function show(cell, found) {
    const bar = cell.querySelector("i");
    cell.dataset.value = found ? found.mean : "";
    const parts = [];
    if (!found) parts.push(element("span", "none", "–"));
    else {
      parts.push(element("b", "", hundred(found.mean)));
      if (found.half !== null) parts.push(element("small", "", `±${half(found.half)}`));
      parts.push(element("small", "n", `n ${found.n}`));
    }
    if (bar) {
      bar.style.width = found ? `${hundred(found.mean)}%` : "0";
      parts.push(bar);
    }
    cell.replaceChildren(...parts);
  }

  function element(name, kind, text) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    made.textContent = text;
    return made;
  }

  function duration(found) {
    if (!found) return "–";
    const s = found.mean;
    if (s < 59.95) return `${s.toFixed(s < 1 ? 2 : 1)}\u00a0s`;
    const minutes = Math.floor(Math.round(s) / 60), rest = Math.round(s) % 60;
    return minutes < 60 ? `${minutes}\u00a0min\u00a0${String(rest).padStart(2, "0")}\u00a0s`
      : `${Math.floor(minutes / 60)}\u00a0h\u00a0${String(minutes % 60).padStart(2, "0")}\u00a0min`;
  }

  function coverage(cell, own) {
    const count = (status) => own.filter((row) => row.status === status).length;
    const parts = [own.length ? `${count("done")}/${own.length}` : element("span", "none", "–")];
    for (const status of ["failed", "missing"]) {
      if (count(status)) parts.push(" ", element("span", `state ${status}`, `${count(status)} ${status}`));
    }
    cell.dataset.value = own.length ? count("done") / own.length : "";
    cell.replaceChildren(...parts);
  }

  function mark(cell, flags) {
    const box = cell.querySelector("details");
    if (!box) return;
    const marks = [...box.querySelectorAll("[data-flag]")];
    for (const flag of marks) flag.hidden = !flags.has(flag.dataset.flag);
    const many = marks.filter((flag) => !flag.hidden).length;
    box.hidden = !many;
    box.querySelector("summary").textContent = many === 1 ? "1 flag" : `${many} flags`;
  }

  function update() {
    const shown = every.filter(fits);
    for (const line of board.tBodies[0].rows) {
      const own = shown.filter((row) => row.defense === line.dataset.defense);
      const attacked = own.filter((row) => !clean(row));
      const found = together(attacked), cost = together(own.filter(clean));
      [found.asr, found.ra, found.acc, cost.acc, found.der, ...measures.map((name) => found[name])]
        .forEach((value, place) => show(line.cells[place + 1], value));
      const after = 6 + measures.length, time = line.cells[after];
      time.dataset.value = found.seconds ? found.seconds.mean : "";
      time.textContent = duration(found.seconds);
      coverage(line.cells[after + 1], attacked);
      const flags = new Set(attacked.flatMap((row) => row.flags));
      if (found.acc && found.acc.n < 3) flags.add("few-seeds");
      mark(line.cells[after + 2], flags);
    }
    for (const part of document.querySelectorAll("#every tbody tr, .heat [data-attack]")) {
      part.hidden = !fits(part.dataset);
    }
    const head = board.tHead.querySelector("[aria-sort=ascending], [aria-sort=descending]");
    if (head) sort(board, head, head.ariaSort);
    const cells = shown.filter((row) => row.defense !== "none").length;
    document.getElementById("shown").textContent = `${cells} of ${every.filter((row) => row.defense !== "none").length} cells`;
  }

  for (const filter of filters) filter.addEventListener("change", update);
  if (filters.some((filter) => filter.value)) update();
}
