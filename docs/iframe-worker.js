// The search is a worker, which browsers start for no page that is read from a file. Such a page runs
// its script in a frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(source) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.started = new Promise((resolve) => {
        this.frame.onload = () => {
          const inside = this.frame.contentWindow;
          inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = inside.document.createElement("script");
          script.onload = resolve;
          script.src = source;
          inside.document.head.append(script);
        };
      });
      document.documentElement.append(this.frame);
    }

    postMessage(data) {
      const message = new MessageEvent("message", { data });
      this.started.then(() => this.frame.contentWindow.dispatchEvent(message));
    }
  };
}
