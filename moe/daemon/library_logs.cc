#include "moe/daemon/library_logs.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "moe/base/log.h"

namespace conclave {

void RouteLibraryLogs() {
  gpr_set_log_function([](gpr_log_func_args* line) { LogDebug(absl::StrCat("grpc: ", line->message)); });
  google::protobuf::SetLogHandler([](google::protobuf::LogLevel, const char*, int, const std::string& message) {
    LogDebug(absl::StrCat("protobuf: ", message));
  });
}

}  // namespace conclave
