// Where the editor would show its own default graph, it shows a workflow that this service can run.
import { app } from "/scripts/app.js";
import { api } from "/scripts/api.js";

const TUTORIAL = "Comfy.TutorialCompleted";

async function fetchJson(response) {
  if (!response.ok) throw new Error(`expected status 200 from ${response.url}, found ${response.status}`);
  return response.json();
}

/** Our workflow; where the demo model is not there, with the first checkpoint that is. */
async function ownWorkflow() {
  const [workflow, checkpoints] = await Promise.all([
    fetch(new URL("./txt2img.json", import.meta.url)).then(fetchJson),
    api.fetchApi("/models/checkpoints").then(fetchJson),
  ]);
  for (const node of workflow.nodes) {
    if (node.type !== "CheckpointLoaderSimple" || checkpoints.length === 0) continue;
    if (!checkpoints.includes(node.widgets_values[0])) node.widgets_values[0] = checkpoints[0];
  }
  return workflow;
}

function isDefault(graph) {
  return graph === undefined || graph === null || graph === window.comfyAPI?.defaultGraph?.defaultGraph;
}

app.registerExtension({
  name: "mezzotint.firstVisit",
  async init() {
    // a new visitor would be shown a blank canvas below the dialog of templates
    const settings = app.extensionManager.setting;
    if (!settings.get(TUTORIAL)) await settings.set(TUTORIAL, true);

    const load = app.loadGraphData;
    app.loadGraphData = async function (graph, ...rest) {
      return load.call(this, isDefault(graph) ? await ownWorkflow() : graph, ...rest);
    };
  },
});
