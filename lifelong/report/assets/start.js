for (const id of Object.keys(SECTIONS)) build(id);
if (data.live) live();
