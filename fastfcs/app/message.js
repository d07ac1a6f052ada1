// What there is to say. value: {errors, notes, progress: {done, text}}
shows(({errors, notes, progress}) => {
  const said = [...errors.map((text) => ['ff-error', text]), ...notes.map((text) => ['ff-note', text])];
  find('.ff-said').replaceChildren(...said.map(([className, textContent]) => make('p', {className, textContent})));
  find('.ff-progress').hidden = !progress;
  if (!progress) return;
  find('progress').value = progress.done;
  find('.ff-progress span').textContent = progress.text;
});
