// The service's HTTP API as this page uses it.
// Neighbours: `dialogs` asks for the token, all views read through here. Invariants: the token travels in a header, never in an address;
// it is kept in this tab's session storage; a refusal becomes an ApiError with the service's own words.

const KEY = "mgrd.token";
const PATIENCE = 3; // times that a request is sent again when the service asks for a pause
const LONGEST_PAUSE_S = 10;

export class ApiError extends Error {
  /** status 0: no answer. hint: what to do, from the service. */
  constructor(status, message, hint = "") {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.hint = hint;
  }

  get words() {
    return this.hint ? `${this.message} (${this.hint})` : this.message;
  }
}

export class Api {
  /** askToken(problem): shows the dialog, resolves to the token, or "" when the reader does not want to give one now. */
  constructor(askToken) {
    this.askToken = askToken;
    this.asking = null;
    this.declined = false;
  }

  get hasToken() {
    return Boolean(sessionStorage.getItem(KEY));
  }

  forget() {
    sessionStorage.removeItem(KEY);
  }

  async json(path, options) {
    const response = await this.response(path, options);
    return response.status === 204 ? null : response.json();
  }

  async text(path, options) {
    return (await this.response(path, options)).text();
  }

  async blob(path, options) {
    return (await this.response(path, options)).blob();
  }

  post(path, body = {}) {
    return this.json(path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  }

  /** A successful response whose body is still to be read. Raises ApiError, or AbortError when `signal` ends it. */
  async response(path, { headers = {}, ...options } = {}) {
    for (let pauses = 0; ; ) {
      const token = sessionStorage.getItem(KEY);
      const all = token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
      const response = await this.#fetch(path, { ...options, headers: all });
      if (response.ok) return response;
      const error = await refusal(response);
      if (response.status === 429 && pauses++ < PATIENCE) {
        await pause(response, options.signal);
        continue;
      }
      if (response.status !== 401 || !(await this.#anotherToken(token, error))) throw error;
    }
  }

  async #fetch(path, options) {
    try {
      return await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", ...options });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "the service does not answer");
    }
  }

  /** One dialog for all requests that were refused at the same time. */
  async #anotherToken(refused, error) {
    if (sessionStorage.getItem(KEY) !== refused) return true; // given meanwhile
    if (this.declined) return false;
    this.asking ??= this.askToken(refused ? error.message : "").finally(() => {
      this.asking = null;
    });
    const token = await this.asking;
    this.declined = !token;
    if (token) sessionStorage.setItem(KEY, token);
    return Boolean(token);
  }
}

/** As long as the service asks for. Raises AbortError when `signal` ends it. */
function pause(response, signal) {
  const wait = Math.min(LONGEST_PAUSE_S, Math.max(0.2, Number(response.headers.get("Retry-After")) || 1));
  return new Promise((done, failed) => {
    const timer = setTimeout(done, wait * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(new DOMException("given up", "AbortError"));
    }, { once: true });
  });
}

async function refusal(response) {
  let said = null;
  try {
    said = (await response.json()).error;
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error; // no JSON: a proxy answered
  }
  const field = said?.field ? `${said.field}: ` : "";
  return new ApiError(response.status, `${field}${said?.message ?? `the service answered ${response.status}`}`, said?.hint ?? "");
}

/** Address of an experiment, or of what belongs to it. */
export function of(id, rest = "") {
  return `/v1/experiments/${encodeURIComponent(id)}${rest}`;
}
