// Keeps the part of a page that changes as it is at the gateway: asks for it again when the gateway says that something changed, and
// every five seconds (or as `data-every` says), while somebody looks. Says when what is shown is no longer kept so. Without it the page still works.
(() => {
  "use strict";
  const EVERY = 5_000, SOONEST = 1_000, BUSY = 100, SILENT = 20_000, ANSWER = 8_000;
  const asOf = document.getElementById("asof"), stale = document.getElementById("stale");
  if (!asOf || !stale || !document.getElementById("live")) return;
  const knows = document.querySelector('form[action="/logout"]') !== null;  // a stranger is told nothing: the page asks now and then
  let source = null, heard = 0, began = 0, due = 0, dueAt = Infinity, busy = false;

  const every = () => Number(document.getElementById("live")?.dataset.every) || EVERY;

  const say = (text) => {
    if (stale.textContent !== text) stale.textContent = text;
    stale.parentElement.classList.toggle("stale", text !== "");
  };

  // A field that is being filled in, or text that is being marked, must not be taken away.
  const held = (live) => {
    const active = document.activeElement, marked = getSelection();
    if (live.contains(active) && active.matches("input, select, textarea")) return "Not refreshed while a field is being filled in.";
    if (marked && !marked.isCollapsed && live.contains(marked.anchorNode)) return "Not refreshed while text is marked.";
    return "";
  };

  const place = (root, node) => {
    const steps = [];
    for (; node !== root; node = node.parentElement) steps.unshift([...node.parentElement.children].indexOf(node));
    return steps;
  };

  const replace = (live, fresh) => {
    for (const open of live.querySelectorAll("details[open][id]")) fresh.querySelector("#" + CSS.escape(open.id))?.setAttribute("open", "");
    const scrolled = [...live.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
    const active = live.contains(document.activeElement) ? document.activeElement : null;
    const steps = active && place(live, active);
    live.replaceWith(fresh);
    [...fresh.querySelectorAll(".scroll")].forEach((one, n) => { if (scrolled[n]) [one.scrollLeft, one.scrollTop] = scrolled[n]; });
    if (!active) return;
    const same = (active.id && document.getElementById(active.id)) || steps.reduce((node, n) => node?.children[n], fresh);
    if (same?.tagName === active.tagName) same.focus({ preventScroll: true });
  };

  const refresh = async () => {
    clearTimeout(due);
    dueAt = Infinity;
    const live = document.getElementById("live");
    if (document.hidden) return;
    if (busy) { plan(BUSY); return; }
    const why = held(live);
    if (why) { say(why); plan(SOONEST); return; }
    busy = true;
    began = Date.now();
    try {
      const address = location.pathname + location.search.replace(/[?&]done=[a-z-]*/, "");
      const headers = { "Fieldgate-Live": "1" };
      if (live.dataset.tag) headers["If-None-Match"] = `"${live.dataset.tag}"`;
      const answer = await fetch(address, { credentials: "same-origin", headers, signal: AbortSignal.timeout(ANSWER) });
      if (answer.redirected || answer.status === 404) { location.reload(); return; }
      if (answer.status === 304) {
        const at = asOf.querySelector("time");
        at.dateTime = answer.headers.get("Fieldgate-As-Of");
        at.textContent = `${at.dateTime.slice(11, 19)} UTC`;
        say("");
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const read = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = read.getElementById("live");
      if (!fresh) throw new Error("another page");
      if (!held(live)) {
        replace(live, fresh);
        asOf.replaceChildren(...read.getElementById("asof").childNodes);
        say("");
      }
    } catch {
      say("The gateway does not answer: what is shown may no longer be so.");
    } finally {
      busy = false;
      plan(every());
    }
  };

  // The earliest counts: a change that is told while the page asks is asked for after that, and not with the next beat.
  const plan = (milliseconds) => {
    if (Date.now() + milliseconds >= dueAt) return;
    clearTimeout(due);
    dueAt = Date.now() + milliseconds;
    due = setTimeout(refresh, milliseconds);
  };

  // One line for each page that is looked at: a browser has only six to a site, for all of its tabs.
  const listen = () => {
    source?.close();
    source = null;
    if (document.hidden || !knows) return;
    heard = Date.now();
    source = new EventSource("/live");
    // All pages hear the beat at the same moment, and what they ask for then is computed once for all of them.
    source.addEventListener("beat", () => {
      heard = Date.now();
      if (!busy && every() === EVERY && heard - began >= SOONEST) plan(0);
    });
    source.addEventListener("changed", () => {
      heard = Date.now();
      plan(Math.max(0, began + SOONEST - Date.now()));
    });
    source.addEventListener("error", () => plan(0));
    source.addEventListener("open", () => { if (stale.textContent) plan(0); });
  };

  setInterval(() => {
    if (!document.hidden && (Date.now() - heard > SILENT || source?.readyState === EventSource.CLOSED)) listen();
  }, 5_000);
  document.addEventListener("visibilitychange", () => { listen(); if (!document.hidden) refresh(); });
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", listen);
  plan(every());
})();
