(...controls) => {
  document.querySelector('#ff-compare .ff-stage').ariaBusy = true;
  return controls;
}
