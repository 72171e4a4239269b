// Reads the daily bars of two symbols and prints them; the Go of docs/bars.md.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	ingestv1 "example.com/yours/gen/go/mdw/ingest/v1"
	typev1 "example.com/yours/gen/go/mdw/type/v1"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	key, err := os.ReadFile(".mdw/admin.key")
	check(err)
	conn, err := grpc.NewClient("127.0.0.1:15053", grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err)
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-api-key", strings.TrimSpace(string(key)))
	request := &ingestv1.StreamBarsRequest{Tickers: []string{"AAPL", "MSFT"}, Timeframe: typev1.Timeframe_TIMEFRAME_1D}
	stream, err := ingestv1.NewBarServiceClient(conn).StreamBars(ctx, request)
	check(err)
	for chunk, err := stream.Recv(); err != io.EOF; chunk, err = stream.Recv() {
		check(err)
		for i, ms := range chunk.GetStartTimeMs() {
			fmt.Println(chunk.GetTicker(), time.UnixMilli(ms).UTC().Format("2006-01-02"), chunk.GetClose()[i])
		}
		if receipt := chunk.GetReceipt(); receipt != nil {
			fmt.Println(receipt.GetBars(), "bars as of", receipt.GetAsOf().AsTime().Format(time.RFC3339Nano))
		}
	}
}
