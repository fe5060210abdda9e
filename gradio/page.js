// What the page does in the browser alone; Gradio runs it once for each view with `element`, `props`, `trigger`, `watch`.
//
// 1. Buttons inside a view: Gradio knows its own buttons only, so a click on one of ours is passed on with its data.
//    Such a button goes when the view is drawn again, so the focus moves to where the keyboard is needed next.
// 2. Copy: only the browser has the clipboard.
// 3. The settings: numbers, sliders and presets agree, and the address carries what differs from the start, so that a
//    link or a reload brings the same settings. The browser itself checks the numbers.

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-action]");
  if (!button) return;
  if (button.dataset.action === "copy") {
    copy(button);
    return;
  }
  const isEdit = button.dataset.action === "edit";
  (isEdit ? document.querySelector("#message textarea") : button.closest("[role=log]"))?.focus();
  trigger("click", { ...button.dataset });
});

async function copy(button) {
  const text = button.closest(".turn").querySelector(".text");
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text.textContent);
  } else {
    // Without https and outside localhost, browsers have the older way only.
    getSelection().selectAllChildren(text);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

const form = element.querySelector("form.settings");
if (form) {
  const numbers = [...form.querySelectorAll("input[type=number]")];
  const presets = [...form.querySelectorAll("[data-preset]")];

  const update = () => {
    const query = new URLSearchParams(location.search);
    for (const number of numbers) {
      if (number.value === number.defaultValue) query.delete(number.name);
      else query.set(number.name, number.value);
    }
    const search = query.toString();
    history.replaceState(history.state, "", location.pathname + (search && "?" + search) + location.hash);

    for (const button of presets) {
      const values = Object.entries(JSON.parse(button.dataset.preset));
      button.setAttribute("aria-pressed", values.every(([name, value]) => form.elements[name].value === value));
    }
    props.value = Object.fromEntries(numbers.map((number) => [number.name, number.value]));
  };

  const fill = (name, value) => {
    const slider = form.querySelector(`[data-for="${name}"]`);
    if (form.elements[name]) form.elements[name].value = value;
    if (slider && value !== "") slider.value = value;
  };

  form.addEventListener("input", (event) => {
    fill(event.target.dataset.for || event.target.name, event.target.value);
    update();
  });
  for (const button of presets) {
    button.addEventListener("click", () => {
      Object.entries(JSON.parse(button.dataset.preset)).forEach(([name, value]) => fill(name, value));
      update();
    });
  }
  for (const [name, value] of new URLSearchParams(location.search)) {
    if (numbers.some((number) => number.name === name)) fill(name, value);
  }
  setTimeout(update); // Gradio takes values from a view only after it has built it
}
