/* Browsers start no Worker for a page that lies on a disk. There the script of the search runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.body.append(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      const script = frame.contentDocument.createElement("script");
      script.src = url;
      script.onload = () => this.waiting.splice(0).forEach((data) => this.deliver(data));
      frame.contentDocument.body.append(script);
      this.ready = new Promise((resolve) => script.addEventListener("load", resolve));
      this.ready.then(() => (this.loaded = true));
    }
    postMessage(data) {
      if (this.loaded) this.deliver(data);
      else this.waiting.push(data);
    }
    deliver(data) {
      this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data }));
    }
    terminate() {}
  };
}
