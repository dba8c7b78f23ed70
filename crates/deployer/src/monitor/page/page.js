// Keeps the page current: replaces what changed, and keeps what a person typed, unfolded, or selected.
"use strict";

(() => {
  const connection = document.getElementById("connection");
  const RETRY = 3000;
  let eventId = document.body.dataset.eventId;
  let source;

  // Whether a person has begun to fill in the form.
  const isTouched = (form) => {
    if (form.contains(document.activeElement) && document.activeElement.matches("input, select")) return true;
    return [...form.elements].some((field) => field.matches("input[type=text]") && field.value !== field.defaultValue);
  };

  // Attributes that belong to the person, not to the server.
  const KEPT = new Set(["open", "checked", "value", "data-keep"]);

  const syncAttributes = (old, fresh) => {
    const keeps = old.matches("details, input[type=checkbox], input[type=text]");
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(keeps && KEPT.has(name))) old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value && !(keeps && KEPT.has(name))) old.setAttribute(name, value);
    }
  };

  const isSame = (old, fresh) =>
    old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && (old.id || "") === (fresh.id || "");

  // Changes the element `old` into `fresh` and keeps the nodes that both have.
  const morph = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.isEqualNode(fresh)) return;
    syncAttributes(old, fresh);
    const remaining = [...old.childNodes];
    let next = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      let place = remaining.findIndex((node) => isSame(node, child));
      if (place < 0) {
        old.insertBefore(child, next);
        continue;
      }
      // What lies before the match is not in the new content.
      for (const gone of remaining.splice(0, place)) {
        if (gone === next) next = next.nextSibling;
        gone.remove();
      }
      const kept = remaining.shift();
      next = kept.nextSibling;
      morph(kept, child);
    }
    for (const gone of remaining) gone.remove();
  };

  const markStale = (section) => {
    if (section.querySelector(".stale")) return;
    const stale = document.createElement("p");
    stale.className = "stale";
    stale.setAttribute("role", "status");
    stale.textContent = "The situation changed while you were typing. Your text is kept; reload the page to see what is possible now.";
    section.append(stale);
  };

  // Sections that wait until a person has left their form.
  const waiting = new Map();

  const replace = (id, html) => {
    const old = document.getElementById(id);
    if (!old || "keep" in old.dataset) return;
    waiting.delete(id);
    if ([...old.querySelectorAll("form")].some(isTouched)) {
      waiting.set(id, html);
      if (id === "actions") markStale(old);
      return;
    }
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById(id);
    if (fresh) morph(old, document.adoptNode(fresh));
  };

  const connect = () => {
    source = new EventSource(eventId ? `/stream?last=${encodeURIComponent(eventId)}` : "/stream");
    source.onopen = () => {
      connection.textContent = "";
    };
    source.onmessage = (message) => {
      connection.textContent = "";
      eventId = message.lastEventId;
      for (const [id, html] of JSON.parse(message.data)) replace(id, html);
    };
    source.onerror = () => {
      connection.textContent = "Connection lost, trying again…";
      // A browser gives up after an answer that is no stream.
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, RETRY);
    };
  };

  connect();
  // After the element that receives the focus has it.
  addEventListener("focusout", () => setTimeout(() => {
    for (const [id, html] of [...waiting]) replace(id, html);
  }));
  // A page that a browser keeps for the way back has lost its connection.
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => {
    if (event.persisted) connect();
  });
})();
