// Lists symbols, streams bars, reads an error's reason, and calls without a key; prints what came as JSON.
import { ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "./gen/ts/google/rpc/error_details_pb.js";
import { BarService } from "./gen/ts/mdw/ingest/v1/bars_pb.js";
import { SymbolService } from "./gen/ts/mdw/symbols/v1/symbols_pb.js";
import { Timeframe } from "./gen/ts/mdw/type/v1/type_pb.js";

const transport = (variable: string) => createGrpcTransport({ baseUrl: `http://${process.env[variable]}` });
const options = { headers: { "x-api-key": process.env.MDW_KEY ?? "" }, timeoutMs: 60_000 };
const symbols = createClient(SymbolService, transport("MDW_SYMBOLS_TARGET"));
const bars = createClient(BarService, transport("MDW_INGEST_TARGET"));

/** Reads the code of an error, and from its ErrorInfo the reason and the ticker that it is about. */
async function refusal(call: Promise<unknown>) {
  try {
    await call;
  } catch (raised) {
    const error = ConnectError.from(raised);
    const [info] = error.findDetails(ErrorInfoSchema);
    return { code: error.code, reason: info?.reason, ticker: info?.metadata["ticker"] ?? "" };
  }
}

const closes: number[] = [];
let receipt: number | undefined;
for await (const chunk of bars.streamBars({ tickers: ["AAPL"], timeframe: Timeframe.TIMEFRAME_1D }, options)) {
  closes.push(...chunk.close);
  if (chunk.receipt) receipt = Number(chunk.receipt.bars);
}
const listed = await symbols.listSymbols({}, options);
console.log(
  JSON.stringify({
    symbols: listed.symbols.map((symbol) => symbol.ticker),
    closes,
    receipt,
    refused: await refusal(symbols.getSymbol({ ticker: "NOPE" }, options)),
    keyless: await refusal(symbols.listSymbols({}, { timeoutMs: 60_000 })),
  }),
);
