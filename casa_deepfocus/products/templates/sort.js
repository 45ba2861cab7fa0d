// Heads of the table become buttons that sort it; without scripts the table stays in its order.
(() => {
  const table = document.getElementById("sources"), body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  const key = (row, at) => {
    const cell = row.cells[at];
    return "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent.trim();
  };
  const empty = value => value === "" || value === "-";
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.append(head.firstChild);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const sign = falling ? -1 : 1;
      Array.from(body.rows).map(row => [key(row, at), row]).sort(([a], [b]) => {
        if (empty(a) || empty(b)) return empty(a) - empty(b);
        return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
      }).forEach(([, row]) => body.append(row));
    });
  });
})();
