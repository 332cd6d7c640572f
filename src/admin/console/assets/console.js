// Refreshes what is live on a page while somebody looks at it. Without it every page works; it only ages.
"use strict";
(() => {
  const EVERY_MS = 2000;
  const parts = [...document.querySelectorAll("[data-live]")];
  if (parts.length === 0) return;
  const say = document.getElementById("say");
  const stale = document.getElementById("stale");
  let seen = new Date();
  const shown = new Map();

  // Whoever types in a part, or has a list open in it, is not disturbed.
  const isBusy = (part) =>
    (part.contains(document.activeElement) && document.activeElement.matches("input,select,textarea")) ||
    [...part.querySelectorAll("select")].some((list) => list.value !== "");

  const put = (part, html) => {
    if (shown.get(part) === html) return;
    const focused = part.contains(document.activeElement) ? document.activeElement.id : "";
    const open = [...part.querySelectorAll("details[open][id]")].map((details) => details.id);
    const scrolled = [...part.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
    shown.set(part, html);
    part.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    part.querySelectorAll(".scroll").forEach((box, at) => { box.scrollLeft = scrolled[at] ?? 0; });
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    const news = part.querySelector("[data-say]")?.dataset.say ?? "";
    if (say && news && say.textContent !== news) say.textContent = news;
  };

  const refresh = async (part) => {
    if (isBusy(part)) return;
    const answer = await fetch(part.dataset.live, { headers: { "x-outlay-part": "live" }, cache: "no-store", redirect: "manual" });
    // The session is over: the page itself leads to the sign-in.
    if (answer.type === "opaqueredirect" || answer.status === 401) { location.reload(); return; }
    if (!answer.ok) throw new Error(String(answer.status));
    const html = await answer.text();
    if (!isBusy(part)) put(part, html);
  };

  const round = async () => {
    if (!document.hidden) {
      try {
        await Promise.all(parts.map(refresh));
        seen = new Date();
        stale.textContent = "";
      } catch {
        stale.textContent = `Not refreshed since ${seen.toLocaleTimeString()}: no answer from outlay. Trying again.`;
      }
    }
    setTimeout(round, EVERY_MS);
  };
  setTimeout(round, EVERY_MS);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) parts.forEach((part) => refresh(part).catch(() => {})); });
})();
