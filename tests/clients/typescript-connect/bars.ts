import { readFileSync } from "node:fs";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { BarService } from "./gen/ts/mdw/ingest/v1/bars_pb.js";
import { Timeframe } from "./gen/ts/mdw/type/v1/type_pb.js";

const headers = { "x-api-key": readFileSync(".mdw/admin.key", "utf8").trim() };
const bars = createClient(BarService, createGrpcTransport({ baseUrl: "http://127.0.0.1:15053" }));
const request = { tickers: ["AAPL", "MSFT"], timeframe: Timeframe.TIMEFRAME_1D };
for await (const chunk of bars.streamBars(request, { headers })) {
  for (const [i, ms] of chunk.startTimeMs.entries()) {
    console.log(chunk.ticker, new Date(Number(ms)).toISOString().slice(0, 10), chunk.close[i]);
  }
  if (chunk.receipt?.asOf) {
    console.log(Number(chunk.receipt.bars), "bars as of", timestampDate(chunk.receipt.asOf).toISOString());
  }
}
