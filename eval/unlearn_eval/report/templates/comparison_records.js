(() => {
  const source = document.getElementById("records");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const make = (name, text, more = {}) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return Object.assign(made, more);
  };
  const number = (row, label, value) => {
    const cell = make("td", value === null ? "–" : value === "inf" ? "∞" : value.toFixed(2).replace("-", "−"));
    cell.dataset.label = label;
    cell.dataset.value = value === null ? "" : value === "inf" ? "Infinity" : value;
    row.append(cell);
  };
  const text = ([asked, parts]) => {
    const shown = make("small", undefined, { className: "text", dir: "auto" });
    if (asked !== null) shown.append(asked, make("br"));
    for (const [piece, kind] of parts) shown.append(kind ? make("mark", piece, { title: kind }) : piece);
    return shown;
  };
  const heads = ["record", "split", "before", "after", "references", "after − references", "recalled"];
  const fill = place => {
    const cell = data.cells[place.dataset.cell];
    const shared = data.sets[cell.set];
    const table = make("table", undefined, { className: "numbers" });
    table.append(make("caption", `${shared.ids.length} of ${cell.all} records: mean loss, nats a token`));
    const line = table.createTHead().insertRow();
    for (const head of heads) line.append(make("th", head, { scope: "col" }));
    const body = table.createTBody();
    shared.ids.forEach((id, i) => {
      const row = body.insertRow();
      const name = make("th", undefined, { scope: "row" });
      name.append(make("bdi", id));
      if (shared.texts && shared.texts[i]) name.append(text(shared.texts[i]));
      row.append(name);
      const split = make("td", shared.splits[i]);
      split.dataset.label = "split";
      row.append(split);
      const [after, theirs] = [cell.after[i], shared.references[i]];
      number(row, "before", shared.before[i]);
      number(row, "after", after);
      number(row, "references", theirs);
      number(row, "after − references", typeof after === "number" && typeof theirs === "number" ? after - theirs : null);
      const recalled = make("td", cell.recalled[i] ? "yes" : "no");
      recalled.dataset.label = "recalled";
      row.append(recalled);
    });
    const holder = make("div", undefined, { className: "table scroll" });
    holder.append(table);
    place.append(holder);
    table.dispatchEvent(new Event("sortable", { bubbles: true }));
  };
  for (const place of document.querySelectorAll("details.records"))
    place.addEventListener("toggle", () => { if (place.open && !place.querySelector("table")) fill(place); });
})();
