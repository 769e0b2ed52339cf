#include <string>
#include <vector>

#include "gateway/gateway.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/daemon/flags.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Refusal(std::vector<const char*> arguments) {
  GatewayOptions options;
  Flags flags("gateway", "Test.");
  options.AddTo(flags);
  arguments.insert(arguments.begin(), "gateway");
  const auto parsed = flags.Parse(static_cast<int>(arguments.size()), arguments.data(),
                                  [](const char*) -> const char* { return nullptr; });
  const absl::Status status = parsed.ok() ? options.Validate() : parsed.status();
  return std::string(status.message());
}

TEST(GatewayOptions, NamesTheFlagThatIsWrong) {
  EXPECT_EQ(Refusal({"--model=/m", "--router=127.0.0.1:1"}), "");
  EXPECT_THAT(Refusal({"--router=127.0.0.1:1"}), StartsWith("--model: missing"));
  EXPECT_THAT(Refusal({"--model=/m"}), StartsWith("--router: missing"));
  EXPECT_THAT(Refusal({"--model=/m", "--router=here"}), StartsWith("--router: expected host:port"));
  EXPECT_THAT(Refusal({"--model=/m", "--router=a:1", "--http-tls-cert=/c"}), StartsWith("--http-tls-cert: needs"));
  EXPECT_THAT(Refusal({"--model=/m", "--router=a:1", "--http-address=x"}), StartsWith("--http-address: "));
  EXPECT_THAT(Refusal({"--model=/m", "--router=a:1", "--http-workers=0"}), StartsWith("--http-workers: is 0"));
  EXPECT_THAT(Refusal({"--model=/m", "--router=a:1", "--router=a:1"}), StartsWith("--router: a:1 stands there twice"));
  EXPECT_THAT(Refusal({"--model=/m", "--routers=a:1"}), HasSubstr("did you mean --router?"));
}

TEST(RunGateway, AModelDirectoryThatDoesNotExistIsNamed) {
  GatewayOptions options;
  options.model = "/nowhere/at/all";
  options.routers = {"127.0.0.1:1"};
  const absl::Status status = RunGateway(options);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/at/all"));
}

TEST(RunGateway, AnAddressThatCannotBeListenedOnIsNamedByItsFlag) {
  GatewayOptions options;
  options.model = "/nowhere";
  options.routers = {"127.0.0.1:1"};
  options.daemon.grpc_address = "127.0.0.1:99999";
  EXPECT_THAT(std::string(RunGateway(options).message()), HasSubstr("--grpc-address"));
}

}  // namespace
}  // namespace conclave
