"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const lower = data.genes.map((name) => name.toLowerCase());
  const MINUS = "\u2212";
  let made = 0;

  function element(name, attributes = {}, ...inside) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  }

  // How a number is written; what cannot be is a dash.
  const writers = {
    mean: (x) => x.toLocaleString("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 }),
    signed: (x) => (x > 0 ? "+" : "") + fixed(x, 3),
    plain: (x) => (x !== 0 && Math.abs(x) < 0.001 ? x.toExponential(2) : fixed(x, 3)),
    p: (x) => (x === 0 ? "0" : x < 0.001 ? x.toExponential(2) : x.toPrecision(3)),
  };
  const fixed = (x, digits) => (Math.abs(x) >= 1e6 ? x.toExponential(3) : x.toFixed(digits));

  function written(column, row) {
    const value = column.list[row];
    if (column.words) return value < 0 ? "" : column.words[value];
    if (value === null) return "\u2013";
    if (!Number.isFinite(value)) return value > 0 ? "\u221e" : MINUS + "\u221e";
    return (writers[column.kind] || writers.plain)(value).replaceAll("-", MINUS);
  }

  // Places of all genes in the order of a column; missing values last, equal ones as they were.
  function ordered(start, list, words, sign) {
    const place = words && ranks(words);
    const key = words ? (row) => (list[row] < 0 ? null : place[list[row]]) : (row) => list[row];
    return Array.from(start).sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return x === y ? 0 : sign * (x < y ? -1 : 1);
    });
  }

  function ranks(words) {
    const collator = new Intl.Collator("en", { numeric: true });
    const order = words.map((_, i) => i).sort((a, b) => collator.compare(words[a], words[b]));
    const place = [];
    order.forEach((i, rank) => { place[i] = rank; });
    return place;
  }

  class Results {
    constructor(home, contrast) {
      this.home = home;
      this.name = contrast.name;
      this.columns = contrast.columns.map((c) => ({ ...c, list: data.lists[c.values] }));
      this.by = Object.fromEntries(this.columns.map((c) => [c.key, c]));
      this.page = 0;
      this.size = 15;
      this.start = this.first();
      this.order = this.start;
      this.sorted = { key: this.by.p_value ? "p_value" : null, sign: 1 };
      this.build();
      this.choose();
    }

    // By p-value, then by size of the statistic.
    first() {
      let order = data.genes.map((_, i) => i);
      if (this.by.stat) {
        const size = this.by.stat.list.map((x) => (x === null ? null : -Math.abs(x)));
        order = ordered(order, size, null, 1);
      }
      return this.by.p_value ? ordered(order, this.by.p_value.list, null, 1) : order;
    }

    build() {
      const id = `table-${made++}`;
      this.search = element("input", { type: "search", autocomplete: "off", spellcheck: "false", "aria-controls": id });
      this.limit = element("input", { type: "text", inputmode: "decimal", placeholder: "any", "aria-controls": id, pattern: "\\s*\\d*\\.?\\d*([eE]-?\\d+)?\\s*" });
      this.status = element("select", { "aria-controls": id }, element("option", { value: "" }, "all"));
      const words = this.by.status ? this.by.status.words : [];
      for (const word of words) {
        const title = data.meanings[word] || word;
        this.status.append(element("option", { value: word, title }, word));
      }
      const label = (text, input, short) => element("label", short ? { class: "short" } : {}, text, input);
      const controls = element("div", { class: "controls" },
        label("Gene name contains", this.search),
        label("Adjusted p below", this.limit, true),
        label("Status", this.status, true));
      this.heads = [this.head({ key: "", label: "gene", title: "gene", kind: "word" })];
      for (const column of this.columns) this.heads.push(this.head(column));
      this.body = element("tbody");
      const table = element("table", { id, "aria-label": `Results of all genes: ${this.name}` },
        element("thead", {}, element("tr", {}, ...this.heads)), this.body);
      this.count = element("span", { role: "status", "aria-live": "polite" });
      this.before = element("button", { type: "button" }, "Previous");
      this.after = element("button", { type: "button" }, "Next");
      const sizes = element("select");
      for (const n of [15, 25, 50, 100, 250]) sizes.append(element("option", { value: n }, String(n)));
      const pages = element("div", { class: "pages" }, this.before, this.after, this.count,
        element("label", {}, "rows ", sizes));
      const note = element("p", { class: "note" },
        "Significant genes are in bold. All digits are in the folder's tables.");
      this.home.append(controls,
        element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of results" }, table),
        pages, note);
      this.search.addEventListener("input", () => this.choose());
      this.limit.addEventListener("input", () => this.choose());
      this.status.addEventListener("change", () => this.choose());
      this.before.addEventListener("click", () => this.turn(this.page - 1));
      this.after.addEventListener("click", () => this.turn(this.page + 1));
      sizes.addEventListener("change", () => { this.size = Number(sizes.value); this.turn(0); });
    }

    head(column) {
      const button = element("button", { type: "button", title: column.title }, column.label);
      const head = element("th", { scope: "col", "data-key": column.key });
      if (column.kind === "word") head.classList.add("word");
      head.append(button);
      button.addEventListener("click", () => this.sort(column.key));
      return head;
    }

    sort(key) {
      const sign = this.sorted.key === key ? -this.sorted.sign : 1;
      this.sorted = { key, sign };
      if (key === "") {
        const all = data.genes.map((_, i) => i);
        this.order = ordered(this.start, all, data.genes, sign);
      } else {
        this.order = ordered(this.start, this.by[key].list, this.by[key].words, sign);
      }
      this.choose();
    }

    // The genes that are wanted, in the order that is wanted.
    choose() {
      const text = this.search.value.trim().toLowerCase();
      const typed = this.limit.value.trim();
      const limit = typed === "" ? null : Number(typed);
      const adjusted = this.by.p_adj && this.by.p_adj.list;
      const status = this.by.status && this.by.status.list;
      const code = this.status.value === "" ? -1 : this.by.status.words.indexOf(this.status.value);
      this.shown = this.order.filter((row) =>
        (text === "" || lower[row].includes(text)) &&
        (limit === null || Number.isNaN(limit) || !adjusted || (adjusted[row] !== null && adjusted[row] < limit)) &&
        (code < 0 || status[row] === code));
      for (const head of this.heads) {
        const here = head.dataset.key === this.sorted.key;
        head.setAttribute("aria-sort", here ? (this.sorted.sign > 0 ? "ascending" : "descending") : "none");
      }
      this.turn(0);
    }

    turn(page) {
      const pages = Math.max(1, Math.ceil(this.shown.length / this.size));
      this.page = Math.min(Math.max(page, 0), pages - 1);
      const begin = this.page * this.size;
      const rows = this.shown.slice(begin, begin + this.size);
      this.body.replaceChildren(...rows.map((row) => this.row(row)));
      const number = (x) => x.toLocaleString("en");
      if (rows.length) {
        this.count.textContent = `${number(begin + 1)}\u2013${number(begin + rows.length)} of ${number(this.shown.length)} genes`;
      } else {
        const cell = element("td", { class: "empty", colspan: this.heads.length }, "No gene is like that.");
        this.body.append(element("tr", {}, cell));
        this.count.textContent = "0 genes";
      }
      this.before.disabled = this.page === 0;
      this.after.disabled = this.page >= pages - 1;
    }

    row(row) {
      const line = element("tr", {}, element("th", { scope: "row" }, data.genes[row]));
      const adjusted = this.by.p_adj && this.by.p_adj.list[row];
      const called = adjusted !== null && adjusted !== undefined && adjusted < data.alpha;
      if (called) line.classList.add("called");
      for (const column of this.columns) {
        const text = written(column, row);
        const cell = element("td", {}, text);
        if (column.words) cell.classList.add("word");
        if (column.key === "status") cell.title = data.meanings[text] || "";
        if (column.key === "log2_fold_change" && called) cell.classList.add(column.list[row] > 0 ? "up" : "down");
        line.append(cell);
      }
      return line;
    }
  }

  // Tables are made when they are first looked at.
  const tables = new Map();
  function show(i) {
    document.querySelectorAll(".part").forEach((part, j) => { part.hidden = i !== j; });
    tabs.forEach((tab, j) => {
      tab.setAttribute("aria-selected", String(i === j));
      tab.tabIndex = i === j ? 0 : -1;
    });
    if (!tables.has(i)) {
      const home = document.querySelector(`.results[data-contrast="${i}"]`);
      tables.set(i, new Results(home, data.contrasts[i]));
    }
  }
  const tabs = Array.from(document.querySelectorAll("[role=tab]"));
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => show(i));
    tab.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const next = (moves[event.key] + tabs.length) % tabs.length;
      show(next);
      tabs[next].focus();
    });
  });
  show(0);
})();
