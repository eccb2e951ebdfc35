// Replaces the part of the page that changes, every ten seconds while somebody looks. Without it the page still works.
(() => {
  const every = 10000;
  const refresh = async () => {
    const live = document.getElementById("live");
    if (!live || document.hidden || live.contains(document.activeElement)) return;
    const answer = await fetch(location.pathname + location.search.replace(/[?&]done=[a-z-]*/, ""), { credentials: "same-origin" });
    if (answer.redirected || !answer.ok) { location.reload(); return; }
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("live");
    if (!fresh) return;
    for (const open of live.querySelectorAll("details[open][id]")) fresh.querySelector("#" + CSS.escape(open.id))?.setAttribute("open", "");
    live.replaceWith(fresh);
  };
  setInterval(() => refresh().catch(() => {}), every);
})();
