/* Blocks of code that scroll can be reached by the keyboard. */
document$.subscribe(() => {
  for (const code of document.querySelectorAll("pre > code, .md-typeset__scrollwrap")) code.tabIndex = 0;
});
