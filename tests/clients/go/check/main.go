// Lists symbols, streams bars, reads an error's reason, and calls without a key; prints what came as JSON.
package main

import (
	"context"
	"encoding/json"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	ingestv1 "example.com/yours/gen/go/mdw/ingest/v1"
	symbolsv1 "example.com/yours/gen/go/mdw/symbols/v1"
	typev1 "example.com/yours/gen/go/mdw/type/v1"
)

type refusal struct {
	Code   int    `json:"code"`
	Reason string `json:"reason"`
	Ticker string `json:"ticker"`
}

// explain reads the code of an error, and from its ErrorInfo the reason and the ticker that it is about.
func explain(err error) refusal {
	found := status.Convert(err)
	for _, detail := range found.Details() {
		if info, is := detail.(*errdetails.ErrorInfo); is {
			return refusal{int(found.Code()), info.GetReason(), info.GetMetadata()["ticker"]}
		}
	}
	return refusal{Code: int(found.Code())}
}

func connect(variable string) *grpc.ClientConn {
	conn, err := grpc.NewClient(os.Getenv(variable), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return conn
}

func tickers(ctx context.Context, symbols symbolsv1.SymbolServiceClient) (found []string) {
	answer, err := symbols.ListSymbols(ctx, &symbolsv1.ListSymbolsRequest{})
	if err != nil {
		log.Fatal(err)
	}
	for _, symbol := range answer.GetSymbols() {
		found = append(found, symbol.GetTicker())
	}
	return found
}

func bars(ctx context.Context, service ingestv1.BarServiceClient) (closes []float64, received int64) {
	request := &ingestv1.StreamBarsRequest{Tickers: []string{"AAPL"}, Timeframe: typev1.Timeframe_TIMEFRAME_1D}
	stream, err := service.StreamBars(ctx, request)
	if err != nil {
		log.Fatal(err)
	}
	for {
		chunk, err := stream.Recv()
		if err == io.EOF {
			return closes, received
		} else if err != nil {
			log.Fatal(err)
		}
		closes = append(closes, chunk.GetClose()...)
		if chunk.GetReceipt() != nil {
			received = chunk.GetReceipt().GetBars()
		}
	}
}

func main() {
	without, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ctx := metadata.AppendToOutgoingContext(without, "x-api-key", os.Getenv("MDW_KEY"))
	symbols := symbolsv1.NewSymbolServiceClient(connect("MDW_SYMBOLS_TARGET"))
	closes, received := bars(ctx, ingestv1.NewBarServiceClient(connect("MDW_INGEST_TARGET")))
	_, refused := symbols.GetSymbol(ctx, &symbolsv1.GetSymbolRequest{Ticker: "NOPE"})
	_, keyless := symbols.ListSymbols(without, &symbolsv1.ListSymbolsRequest{})
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"symbols": tickers(ctx, symbols),
		"closes":  closes,
		"receipt": received,
		"refused": explain(refused),
		"keyless": explain(keyless),
	})
}
