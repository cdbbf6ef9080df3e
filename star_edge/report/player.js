// Plays a clip's joints on a canvas and shows, beneath it, the probability of each class up to the frame played.
"use strict";

(function () {
  const { motions, bones, dims } = pageData.player;
  if (!motions.length) return;
  const people = ["#0b5fa5", "#d55e00", "#009e73", "#cc79a7"];
  const lineColours = ["#0b5fa5", "#d55e00", "#009e73", "#8a5a9e"];
  const dashes = ["", "6 3", "2 3", "8 3 2 3"];
  const front = { yaw: 0, pitch: dims === 3 ? 0.12 : 0 };
  const byId = (id) => document.getElementById(id);
  const canvas = byId("stage"), scrub = byId("scrub"), play = byId("play"), select = byId("clip"), speed = byId("speed");

  let motion = motions[0], frame = 0, view = { ...front }, playing = false, last = 0;

  // x, y to the right and up from -1 to 1, and how near the point is
  function project([x, y, z], { yaw, pitch }) {
    if (dims === 2) return [x / 1000, y / 1000, 0];
    const across = x * Math.cos(yaw) + z * Math.sin(yaw), along = z * Math.cos(yaw) - x * Math.sin(yaw);
    const up = y * Math.cos(pitch) - along * Math.sin(pitch), near = along * Math.cos(pitch) + y * Math.sin(pitch);
    const perspective = 6 / (6 - near / 1000);
    return [(across / 1000) * perspective, (up / 1000) * perspective, near / 1000];
  }

  function drawBodies(target, at, angle, floor) {
    const ratio = target.dataset.ratio ? Number(target.dataset.ratio) : 1;
    const context = target.getContext("2d"), width = target.width / ratio, height = target.height / ratio;
    const unit = Math.min(width, height) * 0.42;
    const place = (point) => {
      const [x, y, near] = project(point, angle);
      return [width / 2 + x * unit, height / 2 - y * unit, near];
    };
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.lineCap = "round";
    if (floor && dims === 3) drawFloor(context, place);
    motion.persons.forEach((rows, person) => {
      const joints = rows[at];
      if (joints) drawBody(context, joints, place, people[person % people.length], unit);
    });
  }

  function drawFloor(context, place) {
    context.strokeStyle = "#e4e8ee";
    context.lineWidth = 1;
    for (let line = -4; line <= 4; line++) {
      for (const ends of [[[line, -4], [line, 4]], [[-4, line], [4, line]]]) {
        context.beginPath();
        ends.forEach(([x, z], i) => context[i ? "lineTo" : "moveTo"](...place([x * 300, motion.floor, z * 300]).slice(0, 2)));
        context.stroke();
      }
    }
  }

  function drawBody(context, joints, place, colour, unit) {
    const placed = joints.map((joint) => joint && place(joint));
    const sure = (i) => (dims === 2 ? 0.25 + 0.75 * Math.min(1, Math.max(0, joints[i][2] / 1000)) : 1);
    context.strokeStyle = context.fillStyle = colour;
    for (const [child, parent] of bones) {
      if (!placed[child] || !placed[parent]) continue;
      const near = (placed[child][2] + placed[parent][2]) / 2;
      context.globalAlpha = Math.min(sure(child), sure(parent)) * Math.min(1, Math.max(0.45, 0.85 + 0.3 * near));
      context.lineWidth = Math.max(1.5, unit * 0.022);
      context.beginPath();
      context.moveTo(placed[child][0], placed[child][1]);
      context.lineTo(placed[parent][0], placed[parent][1]);
      context.stroke();
    }
    placed.forEach((joint, i) => {
      if (!joint) return;
      context.globalAlpha = sure(i);
      context.beginPath();
      context.arc(joint[0], joint[1], Math.max(1.5, unit * 0.017), 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
  }

  function fit(target, width, height) {
    const ratio = window.devicePixelRatio || 1;
    target.width = Math.round(width * ratio);
    target.height = Math.round(height * ratio);
    target.dataset.ratio = ratio;
  }

  // the step whose prediction is known at a frame: the last one not after it
  function stepAt(at) {
    const seen = at * motion.every + 1;
    let step = 0;
    while (step + 1 < motion.steps.length && motion.steps[step + 1] <= seen) step++;
    return step;
  }

  const percent = (value) => `${(100 * value).toFixed(0)} %`;

  function show() {
    drawBodies(canvas, frame, view, true);
    scrub.value = frame;
    byId("frame").textContent = `frame ${frame * motion.every + 1} of ${motion.steps[motion.steps.length - 1]}`;
    const step = stepAt(frame);
    document.querySelectorAll("#legend output").forEach((output, i) => {
      output.textContent = percent(motion.lines[i].values[step]);
    });
    const cursor = document.querySelector("#probabilities .cursor");
    if (cursor) {
      const x = cursor.across(frame * motion.every + 1);
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
    }
  }

  function element(name, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function drawProbabilities() {
    const box = byId("probabilities");
    box.replaceChildren();
    if (!motion.lines.length) return;
    const width = Math.max(box.clientWidth, 240), height = 190;
    const left = 44, right = 12, top = 10, bottom = 30;
    const end = Math.max(2, motion.steps[motion.steps.length - 1]);
    const across = (seen) => left + ((width - left - right) * (seen - 1)) / (end - 1);
    const up = (value) => height - bottom - (height - top - bottom) * value;
    const svg = element("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
    for (const value of [0, 0.5, 1]) {
      svg.append(element("line", { x1: left, x2: width - right, y1: up(value), y2: up(value), class: "grid-line" }));
      svg.append(element("text", { x: left - 8, y: up(value) + 4, "text-anchor": "end" }, percent(value)));
    }
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const seen = Math.round(1 + share * (end - 1));
      const anchor = share === 1 ? "end" : "middle";
      svg.append(element("text", { x: across(seen), y: height - 10, "text-anchor": anchor }, share === 1 ? `frame ${seen}` : seen));
    }
    motion.lines.forEach((line, i) => {
      const points = line.values.map((value, step) => `${across(motion.steps[step]).toFixed(1)},${up(value).toFixed(1)}`);
      svg.append(element("polyline", { points: points.join(" "), fill: "none", stroke: lineColours[i], "stroke-dasharray": dashes[i],
        "stroke-width": line.truth ? 3 : 1.8, "stroke-linejoin": "round" }));
    });
    const cursor = element("line", { y1: top, y2: height - bottom, class: "cursor" });
    cursor.across = across;
    svg.append(cursor);
    svg.addEventListener("pointerdown", (event) => {
      const share = (event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right);
      seek(Math.round(share * (motion.frames - 1)));
    });
    box.append(svg);
  }

  function drawLegend() {
    const legend = byId("legend");
    legend.replaceChildren();
    motion.lines.forEach((line, i) => {
      const entry = document.createElement("span");
      const swatch = element("svg", { width: 26, height: 10, "aria-hidden": "true" });
      swatch.append(element("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke: lineColours[i], "stroke-dasharray": dashes[i],
        "stroke-width": line.truth ? 3 : 1.8 }));
      const name = document.createElement(line.truth ? "strong" : "span");
      name.textContent = line.truth ? `${line.name} (what it shows)` : line.name;
      entry.append(swatch, name, document.createElement("output"));
      legend.append(entry);
    });
  }

  function drawStrip() {
    const strip = document.querySelector(".strip");
    strip.replaceChildren();
    for (let i = 0; i < 6; i++) {
      const picture = document.createElement("canvas");
      fit(picture, 110, 130);
      strip.append(picture);
      drawBodies(picture, Math.round((i * (motion.frames - 1)) / 5), front, false);
    }
  }

  function describe() {
    const truth = motion.truth ? `Shows: ${motion.truth}. ` : "";
    const answer = motion.answer ? `The model's answer to the whole clip: ${motion.answer}, ${percent(motion.confidence)}.` : `No answer: ${motion.note}.`;
    byId("answer").textContent = truth + answer;
    const persons = motion.persons.length === 1 ? "one person" : `${motion.persons.length} persons`;
    canvas.setAttribute("aria-label", `Skeleton of ${persons} over ${motion.frames} frames. ${truth}`);
    byId("probabilities").setAttribute("aria-label", motion.lines.map((line) =>
      `${line.name}: from ${percent(line.values[0])} after the first frame to ${percent(line.values[line.values.length - 1])} at the end`).join("; "));
  }

  function seek(to) {
    frame = Math.min(motion.frames - 1, Math.max(0, to));
    show();
  }

  function setPlaying(wanted) {
    playing = wanted;
    play.textContent = playing ? "Pause" : "Play";
    if (playing) {
      if (frame >= motion.frames - 1) frame = 0;
      last = performance.now();
      requestAnimationFrame(tick);
    }
  }

  function tick(now) {
    if (!playing) return;
    const due = Math.floor(((now - last) / 1000) * motion.fps * Number(speed.value));
    if (due > 0) {
      last = now;
      seek(frame + due);
      if (frame >= motion.frames - 1) setPlaying(false);
    }
    requestAnimationFrame(tick);
  }

  function layOut() {
    const width = canvas.parentElement.clientWidth;
    const height = Math.min(420, Math.max(260, width * 0.6));
    canvas.style.height = `${height}px`;
    fit(canvas, width, height);
    drawProbabilities();
    show();
  }

  function choose(index) {
    setPlaying(false);
    motion = motions[index];
    scrub.max = motion.frames - 1;
    drawLegend();
    describe();
    drawStrip();
    frame = 0;
    layOut();
  }

  motions.forEach((entry, i) => {
    const option = document.createElement("option");
    option.value = i;
    option.textContent = [entry.why, entry.truth, entry.name].filter(Boolean).join(" · ");
    select.append(option);
  });
  select.addEventListener("change", () => choose(Number(select.value)));
  play.addEventListener("click", () => setPlaying(!playing));
  scrub.addEventListener("input", () => { setPlaying(false); seek(Number(scrub.value)); });

  if (dims === 3) {
    const turn = (yaw, pitch) => {
      view.yaw += yaw;
      view.pitch = Math.min(1.4, Math.max(-1.4, view.pitch + pitch));
      show();
    };
    let held = null;
    canvas.addEventListener("pointerdown", (event) => { held = event; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      turn((event.clientX - held.clientX) / 120, (event.clientY - held.clientY) / 160);
      held = event;
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
    const keys = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    canvas.addEventListener("keydown", (event) => {
      if (!keys[event.key]) return;
      event.preventDefault();
      turn(...keys[event.key]);
    });
    byId("front").addEventListener("click", () => { view = { ...front }; show(); });
  }
  for (const name of ["resize", "beforeprint", "afterprint"]) window.addEventListener(name, layOut);
  choose(0);
})();
