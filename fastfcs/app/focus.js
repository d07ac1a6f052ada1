// A button that is disabled or goes away takes the focus with it: it moves to the other one.
() => setTimeout(() => {
  const active = document.activeElement;
  if (active && active !== document.body && !active.disabled && active.offsetParent) return;
  const buttons = [...document.querySelectorAll('.ff-job button')];
  const next = buttons.find((button) => button.offsetParent && !button.disabled);
  if (next) next.focus({preventScroll: true});
}, 100)
