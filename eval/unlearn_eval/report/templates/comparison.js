(() => {
  const tables = [...document.querySelectorAll("table.sortable")];
  const controls = document.querySelector(".controls");
  const [find, front, order, turn, count] = ["find", "front", "order", "turn", "count"].map(id => document.getElementById(id));
  const rowsOf = table => [...table.tBodies[0].rows];
  const original = new Map();
  const value = (row, column) => {
    const cell = row.cells[column];
    if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? NaN : Number(cell.dataset.value);
  };
  const sort = (table, column, down) => {
    const sign = down ? -1 : 1;
    const compare = (a, b) => {
      if (column < 0) return sign * (original.get(a) - original.get(b));
      const [x, y] = [value(a, column), value(b, column)];
      // what has no number is last, whichever way
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || original.get(a) - original.get(b);
      return sign * (x < y ? -1 : x > y ? 1 : 0) || original.get(a) - original.get(b);
    };
    table.tBodies[0].append(...rowsOf(table).sort(compare));
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
  };
  const filter = () => {
    const words = find.value.trim().toLowerCase();
    const best = new Set([...tables[0].querySelectorAll("tr[data-front]")].map(row => row.dataset.method));
    let shown = 0;
    for (const table of tables)
      for (const row of rowsOf(table)) {
        const kept = row.dataset.kind !== "after" || best.has(row.dataset.method);
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(words) || (front.checked && !kept);
        if (table === tables[0] && !row.hidden) shown += 1;
      }
    for (const page of document.querySelectorAll("details.method"))
      page.hidden = !page.dataset.method.toLowerCase().includes(words) || (front.checked && !best.has(page.dataset.method));
    count.textContent = `${shown} of ${rowsOf(tables[0]).length} rows`;
  };
  const sortable = table => {
    rowsOf(table).forEach((row, i) => original.set(row, i));
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        sort(table, column, down);
        if (table === tables[0]) show(column, down);
      });
    });
  };
  tables.forEach(sortable);
  document.addEventListener("sortable", event => sortable(event.target));
  const show = (column, down) => {
    order.value = String(column);
    turn.setAttribute("aria-pressed", String(down));
  };
  order.append(new Option("the recipe's order", "-1"));
  [...tables[0].tHead.rows[0].cells].forEach((head, i) => order.append(new Option(head.textContent, String(i))));
  const again = () => sort(tables[0], Number(order.value), turn.getAttribute("aria-pressed") === "true");
  order.addEventListener("change", again);
  turn.addEventListener("click", () => {
    turn.setAttribute("aria-pressed", String(turn.getAttribute("aria-pressed") !== "true"));
    again();
  });
  find.addEventListener("input", filter);
  front.addEventListener("change", filter);
  // a link to a method's page opens it, also when it was followed before
  const reveal = () => {
    const page = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!page || page.tagName !== "DETAILS") return;
    page.open = true;
    page.scrollIntoView();
    page.querySelector("summary").focus();
  };
  addEventListener("hashchange", reveal);
  for (const link of document.querySelectorAll('a[href^="#"]'))
    link.addEventListener("click", () => { if (link.hash === location.hash) reveal(); });
  reveal();
  controls.addEventListener("submit", event => event.preventDefault());
  controls.hidden = false;
  filter();
})();
