#include "cli/bench/http_load_client.h"

#include <chrono>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/bench/event_stream.h"
#include "cli/bench/http_connection.h"
#include "cli/bench/http_endpoint.h"
#include "moe/base/json_writer.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

constexpr absl::Duration kDiscoverTimeout = absl::Seconds(10);
constexpr size_t kErrorBodyBytesMax = 64 << 10;

// One streamed completion, as it comes in. Notes what it sees in the record.
class Completion {
 public:
  explicit Completion(RequestRecord* record) : record_(record) {}

  void TakeHead(const HttpHead& head) { head_ = head; }

  void TakeBody(absl::string_view bytes) {
    if (head_.status != 200) {
      body_.append(bytes.data(), std::min(bytes.size(), kErrorBodyBytesMax - body_.size()));
      return;
    }
    const Instant now = std::chrono::steady_clock::now();
    const absl::Status status = parser_.Feed(bytes, [this, now](absl::string_view data) { TakeEvent(data, now); });
    if (!status.ok()) Complain(std::string(status.message()));
  }

  void End(const absl::Status& status) {
    const Instant now = std::chrono::steady_clock::now();
    const std::string where = record_->began ? "in mid-stream: " : "";
    if (!status.ok()) return record_->Fail(absl::StrCat(where, std::string(status.message())), now);
    if (head_.status == 429) {
      record_->retry_after = head_.retry_after;
      record_->error = ErrorMessageOf(body_);
      return record_->Finish(Outcome::kRefused, now);
    }
    if (head_.status != 200) {
      return record_->Fail(absl::StrCat("HTTP ", head_.status, ": ", ErrorMessageOf(body_)), now);
    }
    if (!error_.empty()) return record_->Fail(absl::StrCat(where, error_), now);
    if (!done_ || !finished_) return record_->Fail(absl::StrCat(where, "the stream ended before its end"), now);
    record_->Finish(Outcome::kAnswered, now);
  }

 private:
  void TakeEvent(absl::string_view data, Instant now) {
    const absl::StatusOr<CompletionEvent> event = ParseCompletionEvent(data);
    if (!event.ok()) return Complain(std::string(event.status().message()));
    if (event->error.has_value()) return Complain(*event->error);
    if (event->piece) record_->AddPiece(now);
    done_ = done_ || event->done;
    finished_ = finished_ || event->finished;
    record_->input_tokens = event->prompt_tokens.value_or(record_->input_tokens);
    record_->output_tokens = event->completion_tokens.value_or(record_->output_tokens);
    record_->cached_tokens = event->cached_tokens.value_or(record_->cached_tokens);
  }

  void Complain(std::string what) {
    if (error_.empty()) error_ = what.empty() ? "an error without a message" : std::move(what);
  }

  RequestRecord* record_;
  HttpHead head_;
  std::string body_;  // of what is no stream
  EventStreamParser parser_;
  std::string error_;
  bool done_ = false, finished_ = false;
};

class Client final : public LoadClient {
 public:
  Client(std::unique_ptr<HttpEndpoint> endpoint, std::string api_key, boost::asio::io_context& context)
      : endpoint_(std::move(endpoint)), api_key_(std::move(api_key)), context_(context) {}

  absl::StatusOr<ServedModel> Discover(absl::string_view text) override {
    ASSIGN_OR_RETURN(const nlohmann::json models, Call(Head("GET", "/v1/models", -1)));
    ServedModel model;
    if (models.contains("data") && models["data"].is_array() && !models["data"].empty() &&
        models["data"][0].is_object()) {
      model.name = models["data"][0].value("id", "");
    }
    if (model.name.empty()) return absl::DataLossError(absl::StrCat(endpoint_->host_header, " lists no model"));
    JsonWriter body;
    body.BeginObject().Key("model").Text(model.name).Key("prompt").Text(text).End();
    ASSIGN_OR_RETURN(const nlohmann::json tokens, Call(Post("/tokenize", body.text())));
    if (tokens.contains("tokens") && tokens["tokens"].is_array()) {
      for (const nlohmann::json& id : tokens["tokens"]) {
        if (id.is_number_integer()) model.ids.push_back(id.get<int32_t>());
      }
    }
    return model;
  }

  void SetOptions(const RequestOptions& options) override { options_ = options; }

  void Start(const WorkItem& item, RequestRecord* record, std::function<void()> done) override {
    std::string request = Post("/v1/completions", BodyOf(item));
    std::shared_ptr<HttpConnection> connection;
    if (idle_.empty()) {
      connection = HttpConnection::Create(context_, *endpoint_);
    } else {
      connection = std::move(idle_.back());
      idle_.pop_back();
    }
    busy_.insert(connection);
    const auto completion = std::make_shared<Completion>(record);
    record->sent = std::chrono::steady_clock::now();
    connection->Exchange(std::move(request), options_.timeout,
                         {[completion](const HttpHead& head) { completion->TakeHead(head); },
                          [completion](absl::string_view bytes) { completion->TakeBody(bytes); },
                          [this, completion, connection, done = std::move(done)](const absl::Status& status) {
                            completion->End(status);
                            busy_.erase(connection);
                            if (connection->reusable()) idle_.push_back(connection);
                            done();
                          }});
  }

  void CancelAll() override {
    for (const auto& connection : std::set<std::shared_ptr<HttpConnection>>(busy_)) connection->Cancel();
  }

 private:
  std::string Head(absl::string_view method, absl::string_view path, int64_t body_bytes) const {
    std::string head = absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: ", endpoint_->host_header, "\r\n");
    if (!api_key_.empty()) absl::StrAppend(&head, "Authorization: Bearer ", api_key_, "\r\n");
    if (body_bytes >= 0) {
      absl::StrAppend(&head, "Content-Type: application/json\r\nContent-Length: ", body_bytes, "\r\n");
    }
    return absl::StrCat(head, "\r\n");
  }

  std::string Post(absl::string_view path, const std::string& body) const {
    return absl::StrCat(Head("POST", path, static_cast<int64_t>(body.size())), body);
  }

  std::string BodyOf(const WorkItem& item) const {
    JsonWriter json;
    json.BeginObject().Key("model").Text(options_.model).Key("prompt").Numbers(item.prompt);
    json.Key("max_tokens").Number(item.output_tokens).Key("temperature").Number(0);
    if (!options_.stop_at_eos) json.Key("ignore_eos").Bool(true);
    json.Key("stream").Bool(true).Key("stream_options").BeginObject().Key("include_usage").Bool(true).End();
    return json.End().text();
  }

  // One small exchange, whose answer is JSON. Runs the io_context until it is over.
  absl::StatusOr<nlohmann::json> Call(std::string request) {
    const std::string line = request.substr(0, request.find(" HTTP/"));
    const auto connection = HttpConnection::Create(context_, *endpoint_);
    HttpHead head;
    std::string body;
    absl::Status status;
    connection->Exchange(std::move(request), kDiscoverTimeout,
                         {[&head](const HttpHead& told) { head = told; },
                          [&body](absl::string_view bytes) { absl::StrAppend(&body, bytes); },
                          [&status](const absl::Status& told) { status = told; }});
    context_.restart();
    context_.run();
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("no answer from ", endpoint_->host_header, ": ", std::string(status.message())));
    }
    nlohmann::json json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
    if (head.status == 200 && json.is_object()) return json;
    return absl::FailedPreconditionError(
        absl::StrCat(line, " at ", endpoint_->host_header, ": HTTP ", head.status, ": ", ErrorMessageOf(body)));
  }

  const std::unique_ptr<HttpEndpoint> endpoint_;
  const std::string api_key_;
  boost::asio::io_context& context_;
  RequestOptions options_;
  std::vector<std::shared_ptr<HttpConnection>> idle_;  // the last one used is the next one to be used
  std::set<std::shared_ptr<HttpConnection>> busy_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LoadClient>> NewHttpLoadClient(const std::string& address, const ClusterAccess& access,
                                                              boost::asio::io_context& context) {
  ASSIGN_OR_RETURN(auto endpoint, FindHttpEndpoint(address, access, context));
  return std::make_unique<Client>(std::move(endpoint), access.api_key, context);
}

}  // namespace conclave
