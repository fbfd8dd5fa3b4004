// The login: shows the token to the collector once, in a body and never in an address, and goes on to the page that was asked for.

import { say } from "./dom.js";
import { themeButton } from "./theme.js";

const find = (id) => document.getElementById(id);

themeButton(find("theme"));
find("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  say(find("refusal"), "");
  const response = await fetch("/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token: find("token").value }),
  }).catch(() => null);
  if (response?.ok) {
    const wanted = location.hash.slice(1);
    location.replace(/^\/($|\?|compare($|\?)|runs\/)/.test(wanted) ? wanted : "/"); // a page of ours and no other site's
    return;
  }
  const body = await response?.json().catch(() => null);
  say(find("refusal"), body?.error ?? "The collector does not answer. Try again.");
  find("token").select();
});
