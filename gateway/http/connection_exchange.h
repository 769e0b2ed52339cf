// The handle by which a request of a connection is answered. Private to the server.
#ifndef CONCLAVE_GATEWAY_HTTP_CONNECTION_EXCHANGE_H_
#define CONCLAVE_GATEWAY_HTTP_CONNECTION_EXCHANGE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "gateway/http/connection.h"
#include "gateway/http/error_body.h"
#include "gateway/http/exchange.h"
#include "gateway/http/output.h"
#include "gateway/http/server_core.h"

namespace conclave {

// Keeps the connection's object alive, though not the connection open.
class ConnectionExchange final : public Exchange {
 public:
  // `budget_bytes`: what the body has taken of the core's budget, given back by this.
  ConnectionExchange(std::shared_ptr<Connection> connection, std::shared_ptr<ServerCore> core,
                     std::shared_ptr<Output> output, HttpRequest request, RequestContext context, int64_t budget_bytes)
      : connection_(std::move(connection)),
        core_(std::move(core)),
        output_(std::move(output)),
        request_(std::move(request)),
        context_(std::move(context)),
        budget_bytes_(budget_bytes) {}

  ~ConnectionExchange() override {
    TakeBody();
    if (ended_) return;
    if (Respond(ErrorResponse(500, "The request was dropped without an answer."))) return;
    // A stream in its middle. Where the client has gone, so may have the server's threads: nothing is asked of them.
    if (!output_->gone()) connection_->Abort();
  }

  const HttpRequest& request() const override { return request_; }
  const RequestContext& context() const override { return context_; }
  std::string TakeBody() override {
    core_->budget.GiveBack(budget_bytes_.exchange(0));
    return std::move(request_.body);
  }

  bool Respond(HttpResponse response) override {
    if (!output_->Respond(std::move(response))) return false;
    ended_ = true;
    connection_->Wake();
    return true;
  }
  void ExpectStream(HttpResponse head, std::string ping) override {
    output_->ExpectStream(std::move(head), std::move(ping));
    connection_->Wake();
  }
  bool Write(absl::string_view bytes) override {
    const Output::Written written = output_->Write(bytes);
    if (written == Output::Written::kYes) connection_->Wake();
    if (written == Output::Written::kTooSlow) connection_->Abort();
    return written == Output::Written::kYes;
  }
  void EndStream() override {
    ended_ = true;
    if (output_->EndStream()) connection_->Wake();
  }
  void OnClientGone(std::function<void()> gone) override { output_->OnGone(std::move(gone)); }

 private:
  const std::shared_ptr<Connection> connection_;
  const std::shared_ptr<ServerCore> core_;
  const std::shared_ptr<Output> output_;
  HttpRequest request_;
  const RequestContext context_;
  std::atomic<int64_t> budget_bytes_;
  std::atomic<bool> ended_{false};
};

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_HTTP_CONNECTION_EXCHANGE_H_
