// Gradio gives the groups of its radio buttons no names that a screen reader would say.
() => {
  const name = () => document.querySelectorAll('fieldset:not([aria-label])').forEach((group) =>
    group.setAttribute('aria-label', group.querySelector('[data-testid="block-info"]').innerText));
  new MutationObserver(name).observe(document.body, {childList: true, subtree: true});
  name();
}
