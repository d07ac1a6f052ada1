// Paints the regions of two pictures. value: {colours: [[name, css]], pictures: [{title, file, thumb, width, height}], round}
const palette = find('.ff-palette'), sheets = find('.ff-sheets'), pen = find('.ff-pen');
const group = `ff-${Math.random()}`;
let colour = null, papers = [], round = null;

function choices(colours) {
  const all = [...colours, ['nothing', '']];
  palette.replaceChildren(...all.map(([name, css], index) => {
    const radio = make('input', {type: 'radio', name: group, checked: index === 0});
    radio.addEventListener('change', () => { colour = css; });
    radio.setAttribute('aria-label', name === 'nothing' ? 'Erase' : name);
    const label = make('label', {title: name === 'nothing' ? 'Erase' : name}, radio, make('span', {}));
    label.lastChild.style.background = css || 'repeating-linear-gradient(45deg, #bbb 0 4px, #eee 4px 8px)';
    return label;
  }));
  colour = all[0][1];
}

// A disc of whole pixels: blurred borders would be colours of their own.
function dab(context, x, y) {
  const r = Number(pen.value) / 2;
  context.fillStyle = colour;
  for (let dy = -Math.ceil(r); dy <= r; dy++) {
    const half = Math.round(Math.sqrt(Math.max(0, r * r - dy * dy)));
    const row = [Math.round(x) - half, Math.round(y) + dy, 2 * half + 1, 1];
    if (colour) context.fillRect(...row); else context.clearRect(...row);
  }
}

function stroke(context, [x0, y0], [x1, y1]) {
  const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 2));
  for (let k = 0; k <= steps; k++) dab(context, x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps);
}

// The mask as a picture, in which black is what has not been painted.
function mask(canvas) {
  const sheet = make('canvas', {width: canvas.width, height: canvas.height});
  const context = sheet.getContext('2d');
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.drawImage(canvas, 0, 0);
  return sheet.toDataURL('image/png');
}

function changed() {
  const masks = papers.map(({canvas}) => (canvas.width > 1 ? mask(canvas) : ''));
  papers.forEach(({link}, k) => { link.href = masks[k]; link.hidden = !masks[k]; });
  trigger('edit', {masks});
}

function paper({title, file, thumb, width, height}) {
  const canvas = make('canvas', {width: width || 1, height: height || 1, tabIndex: 0});
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', `Regions of the ${title}. The arrow keys move the pen, and the space bar puts it down or lifts it.`);
  const context = canvas.getContext('2d');
  const cursor = make('span', {className: 'ff-cursor', hidden: true});
  const link = make('a', {download: file, textContent: 'Save the mask', hidden: true});
  const clear = make('button', {type: 'button', textContent: `Clear the ${title}`});
  const box = make('div', {className: 'ff-paper'}, make('img', {src: thumb || '', alt: ''}), canvas, cursor);
  let last = null, isDown = false, place = [canvas.width / 2, canvas.height / 2];

  const at = (event) => {
    const {left, top, width, height} = canvas.getBoundingClientRect();
    return [(event.clientX - left) * canvas.width / width, (event.clientY - top) * canvas.height / height];
  };
  const follow = () => {
    cursor.style.left = `${100 * place[0] / canvas.width}%`;
    cursor.style.top = `${100 * place[1] / canvas.height}%`;
    cursor.classList.toggle('ff-down', isDown);
  };
  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    stroke(context, last, last);
  });
  canvas.addEventListener('pointermove', (event) => {
    if (!last) return;
    const next = at(event);
    stroke(context, last, next);
    last = next;
  });
  const end = () => { if (last) { last = null; changed(); } };
  canvas.addEventListener('pointerup', end);
  canvas.addEventListener('pointercancel', end);
  canvas.addEventListener('focus', () => { cursor.hidden = !canvas.matches(':focus-visible'); follow(); });
  canvas.addEventListener('blur', () => { cursor.hidden = true; if (isDown) { isDown = false; changed(); } });
  canvas.addEventListener('keydown', (event) => {
    const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    if (event.key === ' ') {
      isDown = !isDown;
      if (isDown) dab(context, ...place); else changed();
    } else if (event.key in moves) {
      const step = Math.max(4, Number(pen.value) / 2), [dx, dy] = moves[event.key];
      const next = [Math.min(canvas.width, Math.max(0, place[0] + step * dx)), Math.min(canvas.height, Math.max(0, place[1] + step * dy))];
      if (isDown) stroke(context, place, next);
      place = next;
    } else return;
    event.preventDefault();
    cursor.hidden = false;
    follow();
  });
  clear.addEventListener('click', () => { context.clearRect(0, 0, canvas.width, canvas.height); changed(); });
  const figure = make('figure', {hidden: !thumb}, box, make('figcaption', {}, clear, link));
  return {canvas, link, figure};
}

shows((value) => {
  const {colours, pictures} = value;
  if (!palette.children.length) choices(colours);
  if (value.round === round) return;  // else the server has forgotten what was painted
  round = value.round;
  papers = pictures.map(paper);
  sheets.replaceChildren(...papers.map(({figure}) => figure));
});
