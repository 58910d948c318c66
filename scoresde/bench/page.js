// Shows one section of each group at a time, and what a mark stands for when it is pointed at.
for (const group of document.querySelectorAll(".pick")) {
  const sections = [...group.querySelectorAll("section")];
  if (sections.length < 2) continue;
  const select = document.createElement("select");
  select.setAttribute("aria-label", group.dataset.of);
  for (const section of sections) {
    select.add(new Option(section.querySelector("h2").textContent));
  }
  const show = () => sections.forEach((s, k) => { s.hidden = k !== select.selectedIndex; });
  select.addEventListener("change", show);
  group.prepend(select);
  show();
}

const tip = document.querySelector("#tip");
const point = (mark, x, y) => {
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - tip.offsetHeight - 4))}px`;
};
for (const mark of document.querySelectorAll("svg g .mark")) {
  const title = mark.querySelector("title"); // what browsers show by themselves, late
  mark.setAttribute("aria-label", title.textContent);
  title.remove();
  mark.setAttribute("tabindex", "0");
  mark.addEventListener("pointerenter", (e) => point(mark, e.clientX, e.clientY));
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
  mark.addEventListener("focus", () => {
    const box = mark.getBoundingClientRect();
    point(mark, box.right, box.bottom);
  });
  mark.addEventListener("blur", () => { tip.hidden = true; });
}
