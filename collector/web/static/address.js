// Address: what a person looks at, kept in the page's own address: a reload shows it again, Back undoes it, a link passes it on.

/** What the address says of `name`; null where it says nothing and the page's own choice holds. */
export function looked(name) {
  return new URLSearchParams(location.search).get(name);
}

/** The same where it is a list; an empty one where nothing is said. */
export function lookedAt(name) {
  return looked(name)?.split(",") ?? [];
}

/**
 * Say it in the address; null says nothing. Each choice of a person is a step that Back undoes; with `step`
 * false, as for what is typed, the address of the same step changes.
 */
export function look(changes, step = true) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") query.delete(name);
    else query.set(name, value);
  }
  const said = queryText(query);
  const address = `${location.pathname}${said ? `?${said}` : ""}${location.hash}`;
  if (address === `${location.pathname}${location.search}${location.hash}`) return;
  history[step ? "pushState" : "replaceState"](null, "", address);
}

/** A query to be read by people: commas and colons may stand in it as they are. */
export function queryText(query) {
  return query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
}

/** Call `listener` when Back or Forward has changed the address. */
export function onBack(listener) {
  addEventListener("popstate", listener);
}

/** Names, such as labels with their values, as one item of a list; whatever signs they are made of. */
export function packed(names) {
  return names.map(encodeURIComponent).join(":");
}

/** The same back again. */
export function unpacked(item) {
  return item.split(":").map((name) => {
    try {
      return decodeURIComponent(name);
    } catch {
      return name; // cut off on its way here
    }
  });
}
