"use strict";
/* The page of bases: show only weights and bases with some word. */
const sections = [...document.querySelectorAll("details")];
document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase().replaceAll(" ", "␣");
  const fits = (part) => part.textContent.toLowerCase().includes(wanted);
  let found = 0;
  for (const section of sections) {
    const named = fits(section.querySelector("h2"));
    let shown = named ? 1 : 0;
    for (const row of section.querySelectorAll("tbody tr")) {
      row.hidden = !named && ![...row.querySelectorAll("li")].some(fits);
      shown += !row.hidden;
    }
    section.hidden = !shown;
    section.open = Boolean(wanted && shown && !named);
    found += !section.hidden;
  }
  document.getElementById("found").textContent = wanted ? found + " of " + sections.length + " weights" : "";
});
