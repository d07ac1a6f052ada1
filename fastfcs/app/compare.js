// Before and after under one slider. value: {before, after, busy, at, width, height, name}
const stage = find('.ff-stage'), slider = find('.ff-slider');

function move() {
  stage.style.setProperty('--ff-at', `${slider.value}%`);
}

slider.addEventListener('input', move);
move();
shows((value) => {
  stage.hidden = !value.before;
  find('.ff-empty').hidden = Boolean(value.before);
  if (!value.before) return;
  const alone = !value.after;
  stage.classList.toggle('ff-alone', alone);
  stage.ariaBusy = Boolean(value.busy);
  stage.style.setProperty('--ff-ratio', value.width / value.height);
  find('.ff-before').src = value.before;
  find('.ff-before').alt = `${value.name} before`;
  find('.ff-after').src = value.after || value.before;
  find('.ff-after').alt = alone ? '' : `${value.name} after`;
  slider.hidden = alone;
});
