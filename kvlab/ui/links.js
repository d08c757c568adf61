// One listener for the whole document: a click on a link between pages of kvlab, also inside a component, is followed in the browser.
const MARK = "kvlabLinks";

function follow(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button) return;
  const link = event.composedPath().find((node) => node.matches && node.matches("a.kv-link[href]"));
  if (!link) return;
  event.preventDefault();
  // Go as Back and Forward go: the session and its form stay, and the page stops its timers before it asks for the other one. A change of page that the
  // server begins leaves them running until its answer, and what they ask for meanwhile draws parts of this page into that one.
  history.pushState({}, "", link.href);
  dispatchEvent(new PopStateEvent("popstate"));
}

export default function () {
  if (document[MARK]) return;
  document[MARK] = true;
  document.addEventListener("click", follow);
}
