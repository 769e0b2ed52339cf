#include "gateway/http/api_handler.h"

#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gateway/cluster/cluster_map.h"
#include "gateway/console/console.h"
#include "gateway/http/access_log.h"
#include "gateway/http/api_call.h"
#include "gateway/http/api_request.h"
#include "gateway/http/error_body.h"
#include "gateway/http/json_body.h"
#include "gateway/http/routes.h"
#include "gateway/http/tokenizer_info.h"
#include "gateway/validation.h"
#include "moe/base/json_writer.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/version.h"
#include "moe/tracing/tracer.h"

namespace conclave {
namespace {

constexpr size_t kHttpRequestIdBytesMax = 100;  // so that the number of a prompt fits behind it

std::string DrawRequestId() {
  thread_local std::random_device device;
  return absl::StrFormat("req-%08x%08x", device(), device());
}

HttpResponse Json(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

HttpResponse StatusJson(absl::string_view status) {
  return Json(JsonWriter().BeginObject().Key("status").Text(status).End().text());
}

HttpResponse NotServing() {
  return ErrorResponse(absl::UnavailableError("the model is not being served: this gateway starts or stops"));
}

HttpResponse NoSuchModel() {
  return ErrorResponse(absl::NotFoundError("The model does not exist or you do not have access to it."));
}

HttpResponse ConsolePage(const ConsoleFile& file) {
  HttpResponse response;
  response.content_type = std::string(file.content_type);
  response.body = std::string(file.content);
  response.With("Content-Security-Policy", kConsoleSecurityPolicy).With("X-Content-Type-Options", "nosniff");
  return response.With("Referrer-Policy", "no-referrer").With("Cache-Control", "no-cache");
}

void WriteModel(JsonWriter& json, const v1::ModelInfo& model, int64_t created) {
  json.BeginObject().Key("id").Text(model.id()).Key("object").Text("model").Key("created").Number(created);
  json.Key("owned_by").Text("conclave").Key("max_model_len").Number(model.context_tokens_max()).End();
}

bool IsGeneration(Endpoint endpoint) {
  return endpoint == Endpoint::kChatCompletions || endpoint == Endpoint::kCompletions ||
         endpoint == Endpoint::kInvocations;
}

// Whether the model's chat prompts end with <think>, so that its answers begin with thoughts.
bool ChatBeginsInside(const ServedModel& model) {
  if (model.chat_template == nullptr) return false;
  const ChatTurn turn{"user", "?"};
  const auto pieces = model.chat_template->Render({turn}, /*add_generation_prompt=*/true);
  if (!pieces.ok() || pieces->empty()) return false;
  return absl::EndsWith(absl::StripAsciiWhitespace(pieces->back().text), "<think>");
}

// By OpenTelemetry's semantic conventions for HTTP servers.
void EndSpan(Tracer& tracer, const ExchangeSummary& summary) {
  Span span = *summary.context.span;
  span.Set("http.request.method", "POST");
  span.Set("http.route", summary.context.route);
  span.Set("http.response.status_code", summary.status);
  span.Set("http.request.body.size", summary.body_bytes);
  span.Set("http.response.body.size", summary.sent_bytes);
  span.Set("client.address", summary.context.peer);
  span.Set("conclave.request_id", summary.context.request_id);
  if (summary.status >= 400) span.Set("error.type", absl::StrCat(summary.status));
  if (summary.status >= 500) span.error = absl::StrCat("HTTP status ", summary.status);
  tracer.End(std::move(span), absl::Now());
}

class ApiHandlerImpl final : public ApiHandler {
 public:
  ApiHandlerImpl(const HttpOptions& options, Metrics& metrics) : options_(options), access_log_(metrics) {}

  void SetServing(Dispatcher& dispatcher, const ServedModel& model, const Authenticator& authenticator,
                  ClusterMap& cluster) override {
    reasoning_ = !options_.reasoning_content ? ReasoningMode::kOff
                 : ChatBeginsInside(model)   ? ReasoningMode::kBeginsInside
                                             : ReasoningMode::kByTag;
    model_ = &model;
    authenticator_ = &authenticator;
    cluster_ = &cluster;
    dispatcher_.store(&dispatcher);  // the last one: the others are read after it
    ready_.store(true);
  }
  void SetReady(bool ready) override { ready_.store(ready); }
  void SetStopping() override { stopping_.store(true); }

  std::optional<HttpResponse> CheckHead(const HttpRequest& head, RequestContext& context) override {
    const absl::string_view id = head.Header("X-Request-Id");
    context.request_id = id.empty() ? DrawRequestId() : std::string(id);
    context.route = "none";
    if (id.size() > kHttpRequestIdBytesMax || !ValidateRequestId(id).ok()) {
      context.request_id = DrawRequestId();
      return ErrorResponse(
          400, absl::StrCat("X-Request-Id must be at most ", kHttpRequestIdBytesMax, " visible ASCII characters."));
    }
    std::string model_id;
    const Route* route = FindRoute(head.path, &model_id);
    if (route == nullptr) {
      return ErrorResponse(ApiError{404, "There is no such path here.", "invalid_request_error", "", "unknown_url"});
    }
    context.route = std::string(route->path);
    if (head.method == "OPTIONS") {
      HttpResponse response;
      response.status = 204;
      return response.With("Allow", std::string(AllowedMethods(*route)));
    }
    if (!Allows(*route, head.method)) {
      HttpResponse response = ErrorResponse(405, absl::StrCat(route->path, " takes ", AllowedMethods(*route), "."));
      return response.With("Allow", std::string(AllowedMethods(*route)));
    }
    if (route->needs_key) {
      if (dispatcher_.load() == nullptr) return NotServing();
      auto tenant = authenticator_->Authenticate(head.Header("Authorization"));
      if (!tenant.ok()) return ErrorResponse(tenant.status());
      context.tenant = *std::move(tenant);
    }
    if (route->post) context.span = StartSpan(*route, head);
    return route->post ? CheckPost(head, *route, context)
                       : std::optional<HttpResponse>(Get(*route, model_id, context));
  }

  void Handle(std::shared_ptr<Exchange> exchange) override {
    std::string unused;
    const Route* route = FindRoute(exchange->request().path, &unused);
    const std::string text = exchange->TakeBody();
    absl::StatusOr<nlohmann::json> body = ParseJsonBody(text);
    if (!body.ok()) {
      exchange->Respond(ErrorResponse(body.status()));
      return;
    }
    if (const absl::Status status = Answer(route->endpoint, *body, text, exchange); !status.ok()) {
      exchange->Respond(ErrorResponse(status));
    }
  }

  void OnFinished(const ExchangeSummary& summary) override {
    access_log_.Add(summary);
    if (summary.context.span != nullptr) EndSpan(*dispatcher_.load()->tracer(), summary);
  }

 private:
  // A browser sends JSON from another site only after asking, which is refused; any other type it sends unasked.
  std::optional<HttpResponse> CheckPost(const HttpRequest& head, const Route& route, const RequestContext& context) {
    const absl::string_view type = head.Header("Content-Type");
    const absl::string_view name = absl::StripAsciiWhitespace(type.substr(0, type.find(';')));
    if (!name.empty() && !absl::EqualsIgnoreCase(name, "application/json")) {
      return ErrorResponse(415, "Content-Type must be application/json.");
    }
    if (!IsGeneration(route.endpoint)) return std::nullopt;
    // Under overload most requests end here: before their bodies wait for a worker.
    const absl::Status room = dispatcher_.load()->CheckRoom(*context.tenant, context.request_id);
    return room.ok() ? std::nullopt : std::optional<HttpResponse>(ErrorResponse(room));
  }

  // Null where nothing is traced.
  std::shared_ptr<const Span> StartSpan(const Route& route, const HttpRequest& head) const {
    const Dispatcher* dispatcher = dispatcher_.load();
    Tracer* tracer = dispatcher == nullptr ? nullptr : dispatcher->tracer();
    if (tracer == nullptr) return nullptr;
    std::vector<absl::string_view> parents;
    for (const HttpHeader& header : head.headers) {
      if (absl::EqualsIgnoreCase(header.name, kTraceparentHeader)) parents.push_back(header.value);
    }
    const TraceContext parent = tracer->Accept(parents, head.Header(kTracestateHeader));
    return std::make_shared<const Span>(
        tracer->Start(absl::StrCat("POST ", route.path), SpanKind::kServer, parent, absl::Now()));
  }

  HttpResponse Get(const Route& route, const std::string& model_id, const RequestContext& context) {
    Dispatcher* const dispatcher = dispatcher_.load();
    switch (route.endpoint) {
      case Endpoint::kHealth:
        return StatusJson("ok");
      case Endpoint::kReady:
      case Endpoint::kPing:
        return ready_.load() && !stopping_.load() ? StatusJson("ready") : NotServing();
      case Endpoint::kVersion:
        return Json(JsonWriter().BeginObject().Key("version").Text(kVersion).End().text());
      case Endpoint::kModels:
      case Endpoint::kModel:
        return Models(dispatcher->ListModels(*context.tenant), route, model_id);
      case Endpoint::kTokenizerInfo:
        if (dispatcher->ListModels(*context.tenant).models().empty()) return NoSuchModel();
        return Json(TokenizerInfo(*model_));
      case Endpoint::kExperts:
        return Json(*cluster_->Json()).With("Cache-Control", "no-store");
      case Endpoint::kConsole:
        return ConsolePage(*FindConsoleFile(route.path));
      default:
        return ErrorResponse(500, "a route without an answer");
    }
  }

  HttpResponse Models(const v1::ListModelsResponse& models, const Route& route, const std::string& model_id) const {
    JsonWriter json;
    if (route.endpoint == Endpoint::kModels) {
      json.BeginObject().Key("object").Text("list").Key("data").BeginArray();
      for (const v1::ModelInfo& model : models.models()) WriteModel(json, model, started_);
      return Json(json.End().End().text());
    }
    for (const v1::ModelInfo& model : models.models()) {
      if (model.id() != model_id) continue;
      WriteModel(json, model, started_);
      return Json(json.text());
    }
    return NoSuchModel();
  }

  absl::Status Answer(Endpoint endpoint, const nlohmann::json& body, absl::string_view text,
                      const std::shared_ptr<Exchange>& exchange) {
    TranslationOptions options;
    options.prompts_max = options_.prompts_max;
    const GenerationDefaults& defaults = model_->defaults;
    if (defaults.sampling.has_temperature()) options.temperature = std::nullopt;
    if (defaults.max_tokens.has_value()) options.completion_tokens_max = std::nullopt;
    if (!defaults.max_tokens.has_value()) options.chat_tokens_max = model_->context_max;
    switch (endpoint) {
      case Endpoint::kTokenize:
        return Tokenize(body, text, *exchange);
      case Endpoint::kDetokenize:
        return Detokenize(body, *exchange);
      case Endpoint::kChatCompletions:
        return Generate(TranslateChat(body, text, options), exchange);
      case Endpoint::kCompletions:
        return Generate(TranslateCompletion(body, text, options), exchange);
      case Endpoint::kInvocations:
        return Generate(TranslateInvocation(body, text, options), exchange);
      default:
        return absl::InternalError("a route without an answer");
    }
  }

  absl::Status Generate(absl::StatusOr<ApiRequest> request, const std::shared_ptr<Exchange>& exchange) {
    RETURN_IF_ERROR(request.status());
    AnswerHead head;
    head.chat = request->chat;
    head.id = absl::StrCat(head.chat ? "chatcmpl-" : "cmpl-", exchange->context().request_id);
    head.model = model_->name;
    head.created = absl::ToUnixSeconds(absl::Now());
    const auto call = std::make_shared<ApiCall>(exchange, *std::move(request), std::move(head), reasoning_);
    call->Start(*dispatcher_.load(), absl::Now() + options_.request_timeout);
    return absl::OkStatus();
  }

  absl::Status Tokenize(const nlohmann::json& body, absl::string_view text, Exchange& exchange) {
    ASSIGN_OR_RETURN(const v1::TokenizeRequest request, TranslateTokenize(body, text));
    ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                     dispatcher_.load()->Tokenize(*exchange.context().tenant, request));
    JsonWriter json;
    json.BeginObject().Key("count").Number(response.ids_size()).Key("max_model_len").Number(model_->context_max);
    exchange.Respond(Json(json.Key("tokens").Numbers(response.ids()).End().text()));
    return absl::OkStatus();
  }

  absl::Status Detokenize(const nlohmann::json& body, Exchange& exchange) {
    ASSIGN_OR_RETURN(const v1::DetokenizeRequest request, TranslateDetokenize(body));
    ASSIGN_OR_RETURN(const v1::DetokenizeResponse response,
                     dispatcher_.load()->Detokenize(*exchange.context().tenant, request));
    exchange.Respond(Json(JsonWriter().BeginObject().Key("prompt").Text(response.text()).End().text()));
    return absl::OkStatus();
  }

  const HttpOptions options_;
  AccessLog access_log_;
  const int64_t started_ = absl::ToUnixSeconds(absl::Now());
  std::atomic<Dispatcher*> dispatcher_{nullptr};
  std::atomic<bool> ready_{false}, stopping_{false};
  // Set before dispatcher_.
  const ServedModel* model_ = nullptr;
  const Authenticator* authenticator_ = nullptr;
  ClusterMap* cluster_ = nullptr;
  ReasoningMode reasoning_ = ReasoningMode::kOff;
};

}  // namespace

std::unique_ptr<ApiHandler> ApiHandler::Create(const HttpOptions& options, Metrics& metrics) {
  return std::make_unique<ApiHandlerImpl>(options, metrics);
}

}  // namespace conclave
