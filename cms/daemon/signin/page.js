// Keeps the sign-in page up to date: asks for it again, and shows what has changed. Without it the page works by reload.
"use strict";

const EVERY_MS = 2000;
// One lost answer can be a daemon that reads its configuration. Two in a row: the page has closed.
const LOST_ANSWERS = 2;

const here = (id) => document.getElementById(id);
const mark = here("accounts").dataset.mark;
let lost = 0;

function show(fresh) {
  const summary = fresh.getElementById("summary").textContent;
  // Screen readers read a status line that changes, not one that is replaced.
  if (here("summary").textContent !== summary) here("summary").textContent = summary;
  const focused = document.activeElement.dataset.account;
  const cards = [...fresh.getElementById("accounts").children];
  const shown = [...here("accounts").children];
  // Only what has changed is replaced: a person may be about to press a button of another card.
  cards.forEach((card, place) => {
    if (place >= shown.length) here("accounts").append(card);
    else if (shown[place].outerHTML !== card.outerHTML) shown[place].replaceWith(card);
  });
  shown.slice(cards.length).forEach((card) => card.remove());
  if (focused === undefined || document.activeElement !== document.body) return;
  const buttons = [...document.querySelectorAll("[data-account]")];
  (buttons.find((each) => each.dataset.account === focused) || here("summary")).focus();
}

function close() {
  here("summary").textContent = "This page has closed.";
  here("accounts").remove();
  here("foot").hidden = true;
  here("closed").hidden = false;
}

async function look() {
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    // Once cms has left the port, any user's program can listen there. It does not know what this page knows.
    if (fresh.getElementById("accounts").dataset.mark !== mark) throw new Error("another program");
    show(fresh);
    lost = 0;
  } catch {
    lost += 1;
  }
  if (lost < LOST_ANSWERS) setTimeout(look, EVERY_MS);
  else close();
}

setTimeout(look, EVERY_MS);
