"use strict";
// Shows the calls that hold what is typed and ended as is chosen. Without it the page shows all of them.
const panel = document.querySelector("#calls .filter");
if (panel) {
  const [search, outcome, told] = panel.children;
  const calls = [...document.querySelectorAll("#calls details")];
  const texts = calls.map((each) => each.textContent.toLowerCase());
  const every = told.textContent;
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    calls.forEach((each, n) => {
      const fits = (!outcome.value || each.dataset.outcome === outcome.value) && words.every((w) => texts[n].includes(w));
      each.hidden = !fits;
      found += fits;
    });
    told.textContent = words.length || outcome.value ? `${found} found` : every;
  };
  search.addEventListener("input", show);
  outcome.addEventListener("input", show);
  panel.hidden = false;
}
