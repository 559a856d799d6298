/* Blocks of code that scroll can be reached by the keyboard, and the dialog of the search has a name. */
document$.subscribe(() => {
  for (const code of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) code.tabIndex = 0;
  document.querySelector("[data-md-component=search]")?.setAttribute("aria-label", "Search");
});
