// Looks at the page in the frame, as wide as the frame is, and writes what it finds into this document.
"use strict";
addEventListener("load", () => {
  const frame = document.querySelector("iframe");
  const view = frame.contentWindow;
  const page = frame.contentDocument;
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  // https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
  const luminance = (color) => {
    const [r, g, b] = channels(color).slice(0, 3).map((c) => {
      const s = c / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = view.getComputedStyle(e).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)" && (channels(color)[3] ?? 1) > 0.99) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const isShown = (element) => element.getBoundingClientRect().width > 0;
  const problems = [];
  const root = page.documentElement;
  if (root.scrollWidth > root.clientWidth) problems.push(`the page is ${root.scrollWidth} wide in ${root.clientWidth}`);
  let textMin = 99, contrastMin = 99;
  const pictures = [...page.querySelectorAll("svg")].filter(isShown);
  for (const picture of pictures) {
    const box = picture.getBoundingClientRect();
    const scale = box.width / picture.viewBox.baseVal.width;
    const title = picture.querySelector("title").textContent;
    if (box.left < 0 || box.right > root.clientWidth || box.height < 40) problems.push(`${title}: ${JSON.stringify(box)}`);
    for (const text of picture.querySelectorAll("text")) {
      const style = view.getComputedStyle(text);
      const size = parseFloat(style.fontSize) * scale;
      if (size < textMin) textMin = size;
      const reach = text.getBoundingClientRect();
      // A pixel or two of a reader's own font is no harm.
      if (reach.left < box.left - 3 || reach.right > box.right + 3) {
        problems.push(`${title}: "${text.textContent}" is cut off, ${reach.left} to ${reach.right} in ${box.left} to ${box.right}`);
      }
      const behind = text.classList.contains("inside") ? null : ground(picture);
      if (behind) contrastMin = Math.min(contrastMin, contrast(style.fill, behind));
    }
  }
  const words = page.querySelectorAll("h1,h2,h3,p,li span,dt,dd,th,td,li strong,footer");
  for (const word of [...words].filter((e) => isShown(e) && e.textContent.trim())) {
    contrastMin = Math.min(contrastMin, contrast(view.getComputedStyle(word).color, ground(word)));
  }
  const found = {
    problems,
    pictures: pictures.length,
    isDark: luminance(view.getComputedStyle(page.body).backgroundColor) < 0.2,
    textMin,
    contrastMin,
    textsTotal: page.querySelectorAll("svg text").length,
  };
  document.querySelector("pre").textContent = JSON.stringify(found);
});
