// The photo. value: {limit, caption, thumb, error}
receive();
shows(({thumb, caption, error}) => {
  const image = find('img');
  image.hidden = !thumb;
  if (thumb) image.src = thumb;
  find('.ff-target').classList.toggle('ff-filled', Boolean(thumb));
  find('.ff-caption').textContent = caption || '';
  complain(error);
});
