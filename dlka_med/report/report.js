"use strict";

// Slices of a case lie below each other in one picture; a slider moves it and draws the paths of that slice.
for (const view of document.querySelectorAll(".case")) {
  const moving = JSON.parse(view.querySelector("script").textContent);
  view.querySelectorAll(".plane").forEach((plane, place) => {
    const data = moving[place];
    const slider = plane.querySelector("input");
    if (!slider) return;
    const picture = plane.querySelector("image");
    const stage = plane.querySelector(".stage > svg");
    const show = () => {
      const slice = Number(slider.value);
      picture.setAttribute("y", -slice * Number(stage.dataset.height));
      for (const layer of ["reference", "prediction", "errors", "uncertainty"]) {
        plane.querySelectorAll(`.${layer} path`).forEach((path, label) => path.setAttribute("d", data[layer][slice][label]));
      }
      const numbers = plane.querySelector(".numbers");
      numbers.replaceChildren(...data.tags[slice].map(([x, y, number]) => {
        const tag = document.createElement("span");
        tag.style.left = `${x}%`;
        tag.style.top = `${y}%`;
        tag.textContent = number;
        return tag;
      }));
      const told = `${data.numbers[slice] + 1} of ${stage.dataset.total}`;
      plane.querySelector("output").textContent = told;
      slider.setAttribute("aria-valuetext", `slice ${told}`);
    };
    slider.addEventListener("input", show);
    show();
  });
  for (const box of view.querySelectorAll(".switches input")) {
    const show = () => {
      for (const layer of view.querySelectorAll(`.${box.value}`)) layer.style.display = box.checked ? "" : "none";
    };
    box.addEventListener("change", show);
    show();
  }
}
