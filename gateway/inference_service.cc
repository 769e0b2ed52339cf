#include "gateway/inference_service.h"

#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "gateway/caller.h"
#include "gateway/refusal.h"
#include "gateway/request_parser.h"
#include "gateway/rich_error.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "moe/base/status_macros.h"
#include "moe/daemon/grpc_trace.h"
#include "moe/daemon/open_calls.h"
#include "moe/daemon/server_stream.h"

namespace conclave {
namespace {

absl::Time DeadlineOf(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture() : absl::FromChrono(deadline);
}

std::string AuthorizationOf(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  return found == context.client_metadata().end() ? "" : std::string(found->second.data(), found->second.size());
}

absl::Status Parse(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  grpc::Slice slice;
  // A message that came in several pieces has to be put together once; small ones are not copied.
  if (!bytes.TrySingleSlice(&slice).ok() && !bytes.DumpToSingleSlice(&slice).ok()) {
    return absl::InternalError("the request's buffer cannot be read");
  }
  return ParseRequest(absl::string_view(reinterpret_cast<const char*>(slice.begin()), slice.size()), message);
}

// What calls need from the moment that the gateway serves.
struct Serving {
  Dispatcher* dispatcher;
  const Authenticator* authenticator;
};

// Who calls. UNAVAILABLE: not serving yet. UNAUTHENTICATED: no key, or nobody's.
absl::StatusOr<Caller> CallerOf(const Serving* serving, const grpc::CallbackServerContext& context) {
  if (serving == nullptr) {
    return WithRetryAfter(absl::UnavailableError("this gateway is starting; try again"), absl::Seconds(1));
  }
  Caller caller{nullptr, context.peer()};
  ASSIGN_OR_RETURN(caller.tenant, serving->authenticator->Authenticate(AuthorizationOf(context)));
  return caller;
}

absl::StatusOr<v1::GenerateRequest> ParseGenerate(const grpc::ByteBuffer& bytes) {
  v1::GenerateRequest request;
  RETURN_IF_ERROR(Parse(bytes, &request));
  return request;
}

// A chat is a Generate request that holds its messages in another place.
absl::StatusOr<v1::GenerateRequest> ParseChat(const grpc::ByteBuffer& bytes) {
  v1::ChatRequest chat;
  RETURN_IF_ERROR(Parse(bytes, &chat));
  v1::GenerateRequest request = std::move(*chat.mutable_options());
  if (request.prompt_case() != v1::GenerateRequest::PROMPT_NOT_SET) {
    return absl::InvalidArgumentError("prompt: must not be set beside messages");
  }
  *request.mutable_chat()->mutable_messages() = std::move(*chat.mutable_messages());
  *request.mutable_chat()->mutable_tools() = std::move(*chat.mutable_tools());
  if (chat.has_tool_choice()) *request.mutable_chat()->mutable_tool_choice() = chat.tool_choice();
  request.mutable_chat()->set_single_tool_call(chat.single_tool_call());
  return request;
}

// The same error with the field as ChatRequest names it.
absl::Status NameChatField(const absl::Status& status) {
  const std::string field = FieldOf(status);
  if (!absl::IsInvalidArgument(status) || field.empty()) return status;
  const absl::string_view message = status.message();
  if (absl::StartsWith(field, "messages") || absl::StartsWith(field, "options.")) return status;  // said by the parser
  return absl::InvalidArgumentError(absl::StartsWith(field, "chat.") ? message.substr(5)
                                                                     : absl::StrCat("options.", message));
}

// One Generate or Chat call: passes the answers' chunks on, and the client's leaving back.
class GenerateStream final : public ServerStream<v1::GenerateResponse> {
 public:
  GenerateStream(OpenCalls& calls, bool chat) : calls_(calls), chat_(chat) {}

  static void Start(const std::shared_ptr<GenerateStream>& stream, const Serving* serving,
                    const grpc::CallbackServerContext& context, const grpc::ByteBuffer& bytes) {
    absl::StatusOr<std::shared_ptr<AnswerHandle>> answer = stream->Begin(stream, serving, context, bytes);
    if (!answer.ok()) return stream->Close(answer.status());
    {
      absl::MutexLock lock(&stream->mutex_);
      stream->answer_ = *answer;
      if (!stream->gone_) return;
    }
    (*answer)->Cancel();
  }

 private:
  // The dispatcher's share of the stream; apart, because a stream is owned in another way.
  class Sink final : public AnswerSink {
   public:
    explicit Sink(std::shared_ptr<GenerateStream> stream) : stream_(std::move(stream)) {}
    void OnChunk(const v1::GenerateResponse& chunk) override {
      // The usage of all answers comes after whatever still waits of any of them.
      const int kind = chunk.has_usage() ? kUsage : chunk.index();
      // MergeFrom appends ids and sets the fields of the last chunk, but would replace the text.
      stream_->Add(kind, [&chunk](v1::GenerateResponse& message) {
        std::string text = std::move(*message.mutable_text());
        text += chunk.text();
        message.MergeFrom(chunk);
        message.set_text(std::move(text));
      });
    }
    void OnEnd(const absl::Status& status) override { stream_->Close(status); }

   private:
    static constexpr int kUsage = -1;
    std::shared_ptr<GenerateStream> stream_;
  };

  absl::StatusOr<std::shared_ptr<AnswerHandle>> Begin(const std::shared_ptr<GenerateStream>& stream,
                                                      const Serving* serving,
                                                      const grpc::CallbackServerContext& context,
                                                      const grpc::ByteBuffer& bytes) {
    if (!calls_.Enter()) return absl::UnavailableError("this gateway is stopping; try another one");
    entered_ = true;
    ASSIGN_OR_RETURN(Caller caller, CallerOf(serving, context));
    tracer_ = serving->dispatcher->tracer();
    if (tracer_ != nullptr) {
      span_ = StartCallSpan(*tracer_, context, v1::InferenceService::service_full_name(), chat_ ? "Chat" : "Generate",
                            absl::Now());
      caller.trace = span_->context;
    }
    ASSIGN_OR_RETURN(const v1::GenerateRequest request, chat_ ? ParseChat(bytes) : ParseGenerate(bytes));
    return serving->dispatcher->Generate(caller, request, DeadlineOf(context), std::make_shared<Sink>(stream));
  }

  // Called once: by Start where nothing has begun, else by the sink.
  void Close(const absl::Status& status) {
    if (span_.has_value()) EndCallSpan(*tracer_, *std::exchange(span_, std::nullopt), status, absl::Now());
    End(WithGrpcDetails(chat_ ? NameChatField(status) : status));
  }

  void OnClientGone() override {
    std::shared_ptr<AnswerHandle> answer;
    {
      absl::MutexLock lock(&mutex_);
      gone_ = true;
      answer = answer_;
    }
    if (answer != nullptr) answer->Cancel();
  }
  void OnClosed() override {
    {
      absl::MutexLock lock(&mutex_);
      answer_.reset();
    }
    if (entered_) calls_.Leave();
  }

  OpenCalls& calls_;
  const bool chat_;
  bool entered_ = false;
  Tracer* tracer_ = nullptr;
  std::optional<Span> span_;  // where the call is traced
  absl::Mutex mutex_;
  std::shared_ptr<AnswerHandle> answer_ ABSL_GUARDED_BY(mutex_);
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
};

// Requests are taken as bytes, which the generated classes offer only together with replies as bytes; the handlers
// are therefore set here, by the methods' places in inference.proto.
class Service final : public InferenceGrpcService, public v1::InferenceService::Service {
 public:
  Service() {
    AddStream(kGenerate, /*chat=*/false);
    AddStream(kChat, /*chat=*/true);
    AddUnary<v1::TokenizeRequest, v1::TokenizeResponse>(
        kTokenize, [](Dispatcher& dispatcher, const Tenant& tenant, const auto& request) {
          return dispatcher.Tokenize(tenant, request);
        });
    AddUnary<v1::DetokenizeRequest, v1::DetokenizeResponse>(
        kDetokenize, [](Dispatcher& dispatcher, const Tenant& tenant, const auto& request) {
          return dispatcher.Detokenize(tenant, request);
        });
    AddUnary<v1::ListModelsRequest, v1::ListModelsResponse>(
        kListModels,
        [](Dispatcher& dispatcher, const Tenant& tenant, const auto&) -> absl::StatusOr<v1::ListModelsResponse> {
          return dispatcher.ListModels(tenant);
        });
  }
  ~Service() override { delete serving_.load(); }

  grpc::Service* service() override { return this; }
  void SetDispatcher(Dispatcher* dispatcher, const Authenticator* authenticator) override {
    serving_.store(new Serving{dispatcher, authenticator});
  }
  void Drain(absl::Time deadline) override { calls_.Drain(deadline); }

 private:
  static constexpr int kGenerate = 0, kTokenize = 1, kListModels = 2, kChat = 3, kDetokenize = 4;
  using Context = grpc::CallbackServerContext;

  void AddStream(int method, bool chat) {
    MarkMethodCallback(method,
                       new grpc::internal::CallbackServerStreamingHandler<grpc::ByteBuffer, v1::GenerateResponse>(
                           [this, chat](Context* context, const grpc::ByteBuffer* request) {
                             auto stream = std::make_shared<GenerateStream>(calls_, chat);
                             auto* reactor = GenerateStream::Open(stream);
                             GenerateStream::Start(stream, serving_.load(), *context, *request);
                             return reactor;
                           }));
  }

  template <typename Request, typename Response, typename Answer>
  void AddUnary(int method, Answer answer) {
    MarkMethodCallback(method, new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, Response>(
                                   [this, answer](Context* context, const grpc::ByteBuffer* bytes, Response* response) {
                                     const auto run = [&]() -> absl::Status {
                                       const Serving* serving = serving_.load();
                                       ASSIGN_OR_RETURN(const Caller caller, CallerOf(serving, *context));
                                       Request request;
                                       RETURN_IF_ERROR(Parse(*bytes, &request));
                                       ASSIGN_OR_RETURN(*response,
                                                        answer(*serving->dispatcher, *caller.tenant, request));
                                       return absl::OkStatus();
                                     };
                                     auto* reactor = context->DefaultReactor();
                                     reactor->Finish(ToGrpcStatus(WithGrpcDetails(run())));
                                     return reactor;
                                   }));
  }

  std::atomic<const Serving*> serving_{nullptr};
  OpenCalls calls_;
};

}  // namespace

std::unique_ptr<InferenceGrpcService> InferenceGrpcService::Create() { return std::make_unique<Service>(); }

}  // namespace conclave
