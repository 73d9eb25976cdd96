"use strict";
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const one = (query, root = document) => root.querySelector(query);
  const page = JSON.parse(one("#page-data").textContent);
  const FADE = 0.008; // seconds

  // ---- text out: works in a sandboxed frame, where clipboard and downloads may be refused

  const copy = async (text, button) => {
    let done = true;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.body.appendChild(document.createElement("textarea"));
      area.value = text;
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    const before = button.textContent;
    button.textContent = done ? "Copied" : "Not allowed here";
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  const download = (text, name, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const textOf = (name) => (name === "effects" ? page.effects : one("#methods-text").textContent.replace(/\s+/g, " ").trim());
  const fileName = (end) => page.name.replace(/[^\w.-]+/g, "_").slice(0, 60) + end;
  all("[data-copy]").forEach((button) => button.addEventListener("click", () => copy(textOf(button.dataset.copy), button)));
  all("[data-download]").forEach((button) => button.addEventListener("click", () => download(page.effects, fileName("-effects.csv"), "text/csv")));

  // ---- curves: colour by a factor

  const colourBy = one("#colour-by");
  const colour = () => {
    const factor = Number(colourBy.value);
    all(".means").forEach((group) => { group.style.display = Number(group.dataset.factor) === factor ? "" : "none"; });
    all(".colour-legend").forEach((legend) => { legend.hidden = Number(legend.dataset.factor) !== factor; });
    all(".thin").forEach((line) => {
      line.style.setProperty("--series", `var(--s${Number(line.dataset.levels.split(" ")[factor]) % 6})`);
    });
  };
  if (colourBy) {
    colourBy.addEventListener("change", colour);
    colour();
  }

  // ---- curves: over steps or hours; every place on one axis is a straight function of the place on the other

  const axis = one("#curve-axis");
  const turnAxis = () => {
    const hours = axis.value === "hours";
    all("[data-axis]").forEach((ticks) => {
      const off = (ticks.dataset.axis === "hours") !== hours;
      if (ticks instanceof SVGElement) ticks.style.display = off ? "none" : ""; else ticks.hidden = off;
    });
    all("[data-hours]").forEach((line) => {
      const [scale, shift] = line.dataset.hours.split(" ");
      if (hours) line.setAttribute("transform", `translate(${shift} 0) scale(${scale} 1)`); else line.removeAttribute("transform");
    });
    all(".axis-name").forEach((name) => { name.textContent = hours ? axis.selectedOptions[0].textContent : "step"; });
    one("#axis-note").hidden = !hours;
  };
  if (axis) axis.addEventListener("change", turnAxis);

  // ---- players

  const cards = all("article.clip");
  if (!cards.length) return;
  const state = one("#player-state");
  const choose = { a: one("#choose-a"), b: one("#choose-b") };
  const blind = one("#blind");
  const clips = cards.map((card) => {
    const data = JSON.parse(one(".clip-data", card).textContent);
    const takes = new Map(data.takes.map((take) => [take.version, take]));
    return { card, name: data.clip, takes, buffers: new Map(), slot: "a", heard: {}, vote: null, swapped: false };
  });
  const fixed = { low: page.versions.findIndex((each) => each.kind === "low"), high: page.versions.findIndex((each) => each.kind === "high") };
  const SLOTS = ["low", "a", "b", "high"];
  let context = null;
  let playing = null; // { clip, sources: Map slot -> { version, source, gain }, start, length }
  let current = 0;

  const versionOf = (clip, slot) => {
    if (slot in fixed) return fixed[slot];
    const swap = blind.checked && clip.swapped;
    return Number(choose[swap ? (slot === "a" ? "b" : "a") : slot].value);
  };
  const slotName = (slot) => {
    if (slot in fixed) return slot;
    return blind.checked ? (slot === "a" ? "1" : "2") : slot.toUpperCase();
  };

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const bufferOf = (clip, version) => {
    if (!clip.buffers.has(version)) {
      const take = clip.takes.get(version);
      clip.buffers.set(version, take ? context.decodeAudioData(bytesOf(take.audio)) : Promise.resolve(null));
    }
    return clip.buffers.get(version);
  };

  const say = (text) => { state.textContent = text; };
  const mark = (clip) => {
    const on = playing && playing.clip === clip;
    const play = one(".play", clip.card);
    play.textContent = on ? "❚❚ Pause" : "▶ Play";
    play.setAttribute("aria-pressed", String(Boolean(on)));
    all(".switch", clip.card).forEach((button) => {
      button.setAttribute("aria-pressed", String(button.dataset.slot === clip.slot));
      button.disabled = !clip.takes.has(versionOf(clip, button.dataset.slot));
      if (!(button.dataset.slot in fixed)) button.textContent = slotName(button.dataset.slot);
    });
    all("figure[data-slot]", clip.card).forEach((figure) => figure.classList.toggle("heard", Boolean(on) && figure.dataset.slot === clip.slot));
    clip.card.classList.toggle("current", clips[current] === clip);
  };
  const show = (clip) => {
    all("figure[data-slot]", clip.card).forEach((figure) => {
      const slot = figure.dataset.slot;
      const version = versionOf(clip, slot);
      const take = clip.takes.get(version);
      const hide = blind.checked && !(slot in fixed);
      one(".slot-name", figure).textContent = slotName(slot);
      one(".slot-version", figure).textContent = hide ? "hidden until you reveal" : page.versions[version].name;
      one(".slot-score", figure).textContent = hide ? "" : take ? `${take.text ? take.text + ", " : ""}level ${take.gain}` : "not available";
      const image = one("img", figure);
      const source = take ? `data:image/png;base64,${take.image}` : "";
      if (image.getAttribute("src") !== source) image.src = source || "data:,";
      image.alt = hide ? `Hidden: ${slotName(slot)}` : `Spectrogram, ${slotName(slot)}: ${page.versions[version].name}`;
    });
    const votes = { a: `${slotName("a")} closer`, b: `${slotName("b")} closer`, none: "no difference" };
    all("[data-vote]", clip.card).forEach((button) => {
      button.textContent = votes[button.dataset.vote];
      button.setAttribute("aria-pressed", String(clip.vote === button.dataset.vote));
    });
    mark(clip);
  };

  const stop = () => {
    if (!playing) return;
    const { clip, sources } = playing;
    const now = context.currentTime;
    sources.forEach(({ source, gain }) => {
      source.onended = null;
      gain.gain.cancelScheduledValues(now);
      gain.gain.setTargetAtTime(0, now, FADE / 3);
      source.stop(now + 3 * FADE);
    });
    playing = null;
    one(".progress i", clip.card).style.transform = "scaleX(0)";
    mark(clip);
  };
  // Every slot runs from one start time; only gains change, so a switch is exact to the sample.
  const attach = (slot, version, buffer, when, offset) => {
    const source = new AudioBufferSourceNode(context, { buffer, loop: one("#loop").checked });
    const gain = new GainNode(context, { gain: slot === playing.clip.slot ? 1 : 0 });
    source.connect(gain).connect(context.destination);
    source.start(when, offset);
    playing.sources.set(slot, { version, source, gain });
    return source;
  };
  const start = async (clip) => {
    stop();
    context ??= new AudioContext({ sampleRate: 44100, latencyHint: "interactive" });
    await context.resume();
    current = clips.indexOf(clip);
    const wanted = SLOTS.map((slot) => [slot, versionOf(clip, slot)]);
    const buffers = await Promise.all(wanted.map(([, version]) => bufferOf(clip, version)));
    stop();
    if (!buffers[SLOTS.indexOf(clip.slot)]) clip.slot = SLOTS[buffers.findIndex(Boolean)];
    const when = context.currentTime + 0.03;
    const first = buffers.find(Boolean);
    playing = { clip, sources: new Map(), start: when, length: first.duration };
    wanted.forEach(([slot, version], index) => { if (buffers[index]) attach(slot, version, buffers[index], when, 0); });
    playing.sources.get(clip.slot).source.onended = () => { if (playing && playing.clip === clip) stop(); };
    count(clip);
    clips.forEach(mark);
    say(`${clip.name}: ${slotName(clip.slot)}`);
    requestAnimationFrame(tick);
  };
  const tick = () => {
    if (!playing) return;
    const gone = Math.max(0, context.currentTime - playing.start);
    one(".progress i", playing.clip.card).style.transform = `scaleX(${(gone % playing.length) / playing.length})`;
    requestAnimationFrame(tick);
  };
  const count = (clip) => { clip.heard[clip.slot] = (clip.heard[clip.slot] ?? 0) + 1; };
  const turn = (clip, slot) => {
    if (!clip.takes.has(versionOf(clip, slot))) return;
    clip.slot = slot;
    if (playing && playing.clip === clip) {
      const now = context.currentTime;
      playing.sources.forEach(({ gain }, each) => {
        gain.gain.cancelScheduledValues(now);
        gain.gain.setTargetAtTime(each === slot ? 1 : 0, now, FADE / 3);
      });
      count(clip);
      say(`${clip.name}: ${slotName(slot)}`);
    }
    mark(clip);
  };
  // Another version in a slot joins the running ones at their place in time.
  const exchange = async (slot) => {
    if (!playing) return;
    const { clip } = playing;
    const version = versionOf(clip, slot);
    const buffer = await bufferOf(clip, version);
    const old = playing && playing.clip === clip ? playing.sources.get(slot) : null;
    if (!old || !buffer || old.version === version) return;
    const when = context.currentTime + 0.02;
    old.gain.gain.setTargetAtTime(0, when, FADE / 3);
    old.source.onended = null;
    old.source.stop(when + 3 * FADE);
    attach(slot, version, buffer, when, (when - playing.start) % playing.length);
  };

  const failed = (error) => say(`Cannot play: ${error.message}`);
  const toggle = (clip) => { if (playing && playing.clip === clip) stop(); else start(clip).catch(failed); };
  clips.forEach((clip) => {
    one(".play", clip.card).addEventListener("click", () => toggle(clip));
    all(".switch", clip.card).forEach((button) => button.addEventListener("click", () => { current = clips.indexOf(clip); turn(clip, button.dataset.slot); clips.forEach(mark); }));
    all("figure[data-slot]", clip.card).forEach((figure) => figure.addEventListener("click", () => turn(clip, figure.dataset.slot)));
    all("[data-vote]", clip.card).forEach((button) => button.addEventListener("click", () => { clip.vote = button.dataset.vote; show(clip); progress(); }));
  });
  Object.entries(choose).forEach(([slot, select]) => select.addEventListener("change", () => {
    if (blind.checked) begin();
    clips.forEach(show);
    exchange(slot).catch(failed);
  }));
  one("#loop").addEventListener("change", () => { if (playing) playing.sources.forEach(({ source }) => { source.loop = one("#loop").checked; }); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.key === " " && /^(BUTTON|SUMMARY|A)$/.test(event.target.tagName)) return;
    const near = one("#listen").getBoundingClientRect();
    if (!playing && (near.bottom < 0 || near.top > innerHeight)) return;
    const slot = { l: "low", a: "a", b: "b", h: "high", 1: "a", 2: "b" }[event.key.toLowerCase()];
    if (slot) turn(clips[current], slot);
    else if (event.key === " ") toggle(clips[current]);
    else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && playing) {
      current = (current + (event.key === "ArrowDown" ? 1 : clips.length - 1)) % clips.length;
      clips[current].card.scrollIntoView({ block: "nearest" });
      start(clips[current]).catch(failed);
    } else return;
    event.preventDefault();
  });

  // ---- blind mode: who is 1 and who is 2 is drawn per clip from the seed, and told at the end

  const random = (seed) => { // mulberry32
    let word = [...seed].reduce((sum, letter) => Math.imul(sum ^ letter.codePointAt(0), 16777619) >>> 0, 2166136261);
    return () => {
      word = (word + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(word ^ (word >>> 15), word | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  };
  let order = [];
  const begin = () => {
    stop();
    const draw = random(one("#blind-seed").value);
    clips.forEach((clip) => Object.assign(clip, { swapped: draw() < 0.5, vote: null, heard: {}, slot: "a" }));
    order = clips.map((clip) => [draw(), clip]).sort((left, right) => left[0] - right[0]).map(([, clip]) => clip);
    const end = cards[cards.length - 1].nextSibling;
    (blind.checked ? order : clips).forEach((clip) => clip.card.parentNode.insertBefore(clip.card, end));
    one("#blind-result").hidden = true;
  };
  const progress = () => {
    const given = clips.filter((clip) => clip.vote).length;
    say(given === clips.length ? "All clips judged: reveal when you are ready." : `${given} of ${clips.length} clips judged`);
  };
  const arrange = () => {
    begin();
    document.body.classList.toggle("blinded", blind.checked);
    all(".blind-only").forEach((part) => { part.hidden = !blind.checked; });
    clips.forEach(show);
    if (blind.checked) progress(); else say("");
  };
  const signTest = (wins, losses) => { // two-sided binomial, ties left out
    const count = wins + losses;
    let tail = 0;
    let term = 0.5 ** count;
    for (let index = 0; index <= Math.min(wins, losses); index += 1) {
      tail += term;
      term *= (count - index) / (index + 1);
    }
    return Math.min(1, 2 * tail);
  };
  const reveal = () => {
    const names = { a: page.versions[choose.a.value].name, b: page.versions[choose.b.value].name };
    const trials = order.map((clip) => {
      const real = (slot) => (clip.swapped ? (slot === "a" ? "b" : "a") : slot);
      const preferred = clip.vote === "a" || clip.vote === "b" ? real(clip.vote).toUpperCase() : clip.vote === "none" ? "tie" : null;
      const first = clip.swapped ? "B" : "A";
      return { clip: clip.name, shown_as_1: first, preferred, heard: { low: clip.heard.low ?? 0, A: clip.heard[real("a")] ?? 0, B: clip.heard[real("b")] ?? 0, high: clip.heard.high ?? 0 } };
    });
    const tally = (word) => trials.filter((trial) => trial.preferred === word).length;
    const wins = tally("B");
    const losses = tally("A");
    const result = { sweep: page.name, plan_hash: page.plan_hash, test: "preference", seed: one("#blind-seed").value, A: names.a, B: names.b, finished: new Date().toISOString(), trials };
    const text = wins + losses ? `, two-sided sign test p = ${signTest(wins, losses).toFixed(3)}` : "";
    one("#blind-summary").textContent = `B (${names.b}) closer to high in ${wins}, A (${names.a}) in ${losses}, no difference in ${tally("tie")}, not judged ${tally(null)} of ${trials.length} clips${text}.`;
    one("#blind-text").value = JSON.stringify(result, null, 2);
    blind.checked = false;
    document.body.classList.remove("blinded");
    all(".blind-only").forEach((part) => { part.hidden = true; });
    stop();
    clips.forEach(show);
    one("#blind-result").hidden = false;
    one("#blind-result").scrollIntoView({ block: "nearest" });
    say("Revealed.");
  };
  blind.addEventListener("change", arrange);
  one("#blind-seed").addEventListener("change", arrange);
  one("#blind-done").addEventListener("click", reveal);
  one("#blind-copy").addEventListener("click", (event) => copy(one("#blind-text").value, event.target));
  one("#blind-save").addEventListener("click", () => download(one("#blind-text").value, fileName("-preferences.json"), "application/json"));

  clips.forEach(show);
})();
