// Draws the figures that stand in the page's data, at the width of the column, also on paper.
"use strict";

const pageData = JSON.parse(document.getElementById("page-data").textContent);

(function () {
  const paperWidth = 680; // A4 without its margins, in CSS pixels

  function draw(element) {
    const figure = pageData.charts[element.dataset.chart];
    Plotly.newPlot(element, figure.data, figure.layout, { displayModeBar: false, responsive: true, doubleClick: false });
    element.drawn = true;
  }

  const charts = [...document.querySelectorAll("[data-chart]")];
  for (const element of charts) {
    const folded = element.closest("details");
    if (folded) folded.addEventListener("toggle", () => folded.open && !element.drawn && draw(element));
    else draw(element);
  }

  function resize(width) {
    document.querySelector("main").style.maxWidth = width;
    for (const element of charts) if (element.drawn && element.offsetParent) Plotly.Plots.resize(element);
  }
  window.addEventListener("beforeprint", () => resize(`${paperWidth}px`));
  window.addEventListener("afterprint", () => resize(""));
})();
