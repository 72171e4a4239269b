// Lists symbols, streams bars, reads an error's reason, and calls without a key; prints what came as JSON.
import { credentials, loadPackageDefinition, Metadata, type requestCallback, type ServiceError } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { ProtoGrpcType as Bars } from "./gen/bars.js";
import type { ProtoGrpcType as Details } from "./gen/error_details.js";
import type { ProtoGrpcType as Statuses } from "./gen/status.js";
import type { ProtoGrpcType as Symbols } from "./gen/symbols.js";
import type { StreamBarsResponse__Output } from "./gen/mdw/ingest/v1/StreamBarsResponse.js";
import type { ListSymbolsResponse__Output } from "./gen/mdw/symbols/v1/ListSymbolsResponse.js";

const options = { includeDirs: ["."], longs: String, enums: String, defaults: true };
const load = <T>(file: string) => loadPackageDefinition(loadSync(file, options)) as unknown as T;
const { BarService } = load<Bars>("mdw/ingest/v1/bars.proto").mdw.ingest.v1;
const { SymbolService } = load<Symbols>("mdw/symbols/v1/symbols.proto").mdw.symbols.v1;
const { Status } = load<Statuses>("google/rpc/status.proto").google.rpc;
const { ErrorInfo } = load<Details>("google/rpc/error_details.proto").google.rpc;

const within = { deadline: Date.now() + 60_000 };
const key = new Metadata();
key.set("x-api-key", process.env.MDW_KEY ?? "");
const symbols = new SymbolService(process.env.MDW_SYMBOLS_TARGET ?? "", credentials.createInsecure());
const bars = new BarService(process.env.MDW_INGEST_TARGET ?? "", credentials.createInsecure());

function promise<T>(call: (callback: requestCallback<T>) => unknown): Promise<T> {
  return new Promise((resolve, reject) => call((error, answer) => (answer ? resolve(answer) : reject(error))));
}

/** Reads the code of an error, and from its ErrorInfo the reason and the ticker that it is about. */
async function refusal(call: Promise<unknown>) {
  try {
    await call;
  } catch (raised) {
    const error = raised as ServiceError;
    const [packed] = error.metadata.get("grpc-status-details-bin");
    const details = Status.deserialize(packed as Buffer).details;
    const detail = details.find((each) => each.type_url.endsWith("/google.rpc.ErrorInfo"));
    const info = detail && ErrorInfo.deserialize(detail.value);
    return { code: error.code, reason: info?.reason, ticker: info?.metadata["ticker"] ?? "" };
  }
}

const closes: number[] = [];
let receipt: number | undefined;
const stream = bars.streamBars({ tickers: ["AAPL"], timeframe: "TIMEFRAME_1D" }, key, within);
for await (const chunk of stream as AsyncIterable<StreamBarsResponse__Output>) {
  closes.push(...chunk.close);
  if (chunk.receipt) receipt = Number(chunk.receipt.bars);
}
const listed = await promise<ListSymbolsResponse__Output>((done) => symbols.listSymbols({}, key, within, done));
console.log(
  JSON.stringify({
    symbols: listed.symbols.map((symbol) => symbol.ticker),
    closes,
    receipt,
    refused: await refusal(promise((done) => symbols.getSymbol({ ticker: "NOPE" }, key, within, done))),
    keyless: await refusal(promise((done) => symbols.listSymbols({}, within, done))),
  }),
);
bars.close();
symbols.close();
