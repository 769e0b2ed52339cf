// The Chat RPC of a gateway, for one conversation at a time.
#ifndef CONCLAVE_CLI_CHAT_CLIENT_H_
#define CONCLAVE_CLI_CHAT_CLIENT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/chat_session.h"
#include "cli/cluster_access.h"
#include "conclave/v1/inference.pb.h"

namespace grpc {
class ClientContext;
}

namespace conclave {

// Used by one thread, but for what a ClientContext lets others do.
class ChatClient {
 public:
  // `access` must outlive it. Nothing is sent yet. INVALID_ARGUMENT: a TLS file is missing or wrong.
  static absl::StatusOr<std::unique_ptr<ChatClient>> Create(const std::string& address, const ClusterAccess& access);
  virtual ~ChatClient() = default;
  // The model that is served. UNAVAILABLE: nobody answers.
  virtual absl::StatusOr<v1::ModelInfo> Model() = 0;
  // One question; another thread may cut it off by context.TryCancel(), which gives CANCELLED.
  virtual absl::Status Ask(grpc::ClientContext& context, const v1::ChatRequest& request,
                           const std::function<void(absl::string_view)>& sink, ChatAnswer* answer) = 0;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_CHAT_CLIENT_H_
