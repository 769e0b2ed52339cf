#include "moe/daemon/tls.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"
#include "moe/daemon/health_client.h"
#include "moe/metrics/metrics.h"

// Debian's c-ares keeps the name that it last resolved, ten bytes of "localhost", until the end of the process.
extern "C" const char* __lsan_default_suppressions() { return "leak:libcares.so"; }

namespace conclave {
namespace {

using ::testing::HasSubstr;

// Certificates by tools/make_certificates.sh, with a root of their own.
std::string NewCertificates(const std::string& name) {
  const std::string directory = absl::StrCat(TestFolder(), "/", name);
  std::filesystem::remove_all(directory);
  const std::string command =
      absl::StrCat(std::getenv("TEST_SRCDIR"), "/conclave/tools/make_certificates.sh ", directory);
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  return directory;
}

TlsServerOptions ServerOf(const std::string& directory, bool ask_clients) {
  return {directory + "/service.pem", directory + "/service.key", ask_clients ? directory + "/ca.pem" : "", false};
}
TlsClientOptions ClientOf(const std::string& directory, bool show) {
  return {directory + "/ca.pem", show ? directory + "/service.pem" : "", show ? directory + "/service.key" : ""};
}

// A server with health alone.
class Server {
 public:
  explicit Server(const TlsServerOptions& options, Metrics* metrics = nullptr) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    int port = 0;
    const auto credentials = NewServerCredentials(options, metrics);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    credentials_ = *credentials;
    builder.AddListeningPort("127.0.0.1:0", credentials_, &port);
    server_ = builder.BuildAndStart();
    server_->GetHealthCheckService()->SetServingStatus(true);
    port_ = port;
  }
  ~Server() { server_->Shutdown(std::chrono::system_clock::now()); }
  // OK, or what a client finds.
  absl::Status Ask(const TlsClientOptions& options, const std::string& host = "127.0.0.1") const {
    const auto credentials = NewChannelCredentials(options);
    EXPECT_TRUE(credentials.ok()) << credentials.status();
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return CheckServing(grpc::CreateCustomChannel(absl::StrCat(host, ":", port_), *credentials, arguments), "",
                        absl::Seconds(20));
  }

 private:
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

// A copy of `source`, or an empty file, in the place of `target`.
void Replace(const std::string& source, const std::string& target) {
  std::ofstream(target + ".new") << std::ifstream(source).rdbuf();
  std::filesystem::rename(target + ".new", target);
}

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 300; ++i, absl::SleepFor(absl::Milliseconds(100))) {
    if (condition()) return true;
  }
  return false;
}

std::string Reloads(const std::string& result, int count) {
  return absl::StrCat("conclave_tls_certificate_reloads_total{result=\"", result, "\",use=\"grpc\"} ", count, "\n");
}

TEST(Tls, ClientsOfTheRootGetThroughAndOthersDoNot) {
  const std::string ours = NewCertificates("ours"), theirs = NewCertificates("theirs");
  const Server server(ServerOf(ours, /*ask_clients=*/false));
  EXPECT_TRUE(server.Ask(ClientOf(ours, false)).ok());
  EXPECT_TRUE(server.Ask(ClientOf(ours, false), "localhost").ok());
  EXPECT_FALSE(server.Ask(ClientOf(theirs, false)).ok()) << "another root";
  EXPECT_FALSE(server.Ask({}).ok()) << "plaintext";
}

TEST(Tls, AServerThatAsksForCertificatesTakesItsRootsAlone) {
  const std::string ours = NewCertificates("ours"), theirs = NewCertificates("theirs");
  const Server server(ServerOf(ours, /*ask_clients=*/true));
  EXPECT_TRUE(server.Ask(ClientOf(ours, true)).ok());
  EXPECT_FALSE(server.Ask(ClientOf(ours, false)).ok()) << "none shown";
  TlsClientOptions forged = ClientOf(theirs, true);
  forged.ca = ours + "/ca.pem";
  EXPECT_FALSE(server.Ask(forged).ok()) << "of another root";
}

TEST(Tls, AHostThatTheCertificateDoesNotNameIsNotTrusted) {
  const std::string directory = absl::StrCat(TestFolder(), "/elsewhere");
  std::filesystem::remove_all(directory);
  const std::string command =
      absl::StrCat(std::getenv("TEST_SRCDIR"), "/conclave/tools/make_certificates.sh ", directory, " example.org");
  ASSERT_EQ(std::system(command.c_str()), 0);
  const Server server(ServerOf(directory, false));
  EXPECT_FALSE(server.Ask(ClientOf(directory, false)).ok());
}

TEST(Tls, AServerNameStandsInForTheAddress) {
  const std::string directory = absl::StrCat(TestFolder(), "/named");
  std::filesystem::remove_all(directory);
  const std::string command = absl::StrCat(std::getenv("TEST_SRCDIR"), "/conclave/tools/make_certificates.sh ",
                                           directory, " shards.example.org '*.shards.example.org'");
  ASSERT_EQ(std::system(command.c_str()), 0);
  const Server server(ServerOf(directory, true));
  TlsClientOptions client = ClientOf(directory, true);
  for (const char* name : {"shards.example.org", "SHARDS.example.org", "expert-0.shards.example.org"}) {
    client.server_name = name;
    EXPECT_TRUE(server.Ask(client).ok()) << name;
  }
  for (const char* name : {"example.org", "routers.example.org", "a.b.shards.example.org", ".shards.example.org"}) {
    client.server_name = name;
    EXPECT_FALSE(server.Ask(client).ok()) << name;
  }
  client.server_name = "shards.example.org";
  client.ca = NewCertificates("theirs") + "/ca.pem";
  EXPECT_FALSE(server.Ask(client).ok()) << "the name alone is not enough";
}

TEST(Tls, RenewedFilesAreTakenWithoutARestartAndBrokenOnesAreNot) {
  const std::string ours = NewCertificates("ours"), theirs = NewCertificates("theirs"), used = NewCertificates("used");
  const char* const all[] = {"service.pem", "service.key", "ca.pem"};
  for (const char* file : all) Replace(absl::StrCat(ours, "/", file), absl::StrCat(used, "/", file));
  const auto metrics = Metrics::Create();
  const Server server(ServerOf(used, /*ask_clients=*/true), metrics.get());
  ASSERT_TRUE(server.Ask(ClientOf(ours, true)).ok());
  EXPECT_THAT(metrics->Text(), HasSubstr("conclave_tls_certificate_expiry_seconds{use=\"grpc\"} "));

  Replace(theirs + "/service.key", used + "/service.key");  // the key of another certificate
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(metrics->Text(), Reloads("refused", 1)); }));
  absl::SleepFor(absl::Milliseconds(1200));  // gRPC looks every second
  EXPECT_TRUE(server.Ask(ClientOf(ours, true)).ok());

  for (const char* file : all) Replace(absl::StrCat(theirs, "/", file), absl::StrCat(used, "/", file));
  EXPECT_TRUE(Eventually([&] { return server.Ask(ClientOf(theirs, true)).ok(); }));
  EXPECT_THAT(metrics->Text(), HasSubstr(Reloads("taken", 1)));
  EXPECT_FALSE(server.Ask(ClientOf(ours, true)).ok()) << "the roots have changed too";
}

TEST(CheckTls, SaysWhichFileIsMissingOrWrong) {
  const std::string ours = NewCertificates("ours"), theirs = NewCertificates("theirs");
  const auto refusal = [](TlsServerOptions options) { return std::string(CheckTls(options).message()); };
  EXPECT_EQ(refusal({}), "");
  EXPECT_EQ(refusal(ServerOf(ours, true)), "");
  EXPECT_THAT(refusal({"/no/cert.pem", ours + "/service.key", "", false}),
              HasSubstr("--tls-cert: /no/cert.pem: No such"));
  EXPECT_THAT(refusal({ours + "/service.pem", "/no/key", "", false}), HasSubstr("--tls-key: /no/key: No such file"));
  EXPECT_THAT(refusal({ours + "/service.pem", "", "", false}), HasSubstr("give both"));
  EXPECT_THAT(refusal({"", ours + "/service.key", "", false}), HasSubstr("give both"));
  EXPECT_THAT(refusal({ours + "/service.pem", theirs + "/service.key", "", false}), HasSubstr("is not the key of"));
  EXPECT_THAT(refusal({ours + "/service.key", ours + "/service.key", "", false}), HasSubstr("holds no certificate"));
  EXPECT_THAT(refusal({ours + "/service.pem", ours + "/service.pem", "", false}), HasSubstr("holds no private key"));
  EXPECT_THAT(refusal({"", "", ours + "/ca.pem", false}), HasSubstr("--tls-client-ca: needs"));
  EXPECT_THAT(refusal({ours + "/service.pem", ours + "/service.key", "/no/ca.pem", false}),
              HasSubstr("--tls-client-ca: /no/ca.pem"));
  EXPECT_THAT(std::string(CheckTls(TlsClientOptions{"/no/ca.pem", "", ""}).message()),
              HasSubstr("--tls-ca: /no/ca.pem"));
  EXPECT_THAT(std::string(CheckTls(TlsClientOptions{"", ours + "/service.pem", ours + "/service.key"}).message()),
              HasSubstr("needs --tls-ca"));
}

TEST(CheckPlaintextAddress, RefusesWhatOtherMachinesReach) {
  const auto allowed = [](const std::string& address) {
    return CheckPlaintextAddress("grpc-address", address, false).ok();
  };
  for (const char* address : {"127.0.0.1:0", "127.8.9.10:80", "[::1]:0", "localhost:80"}) EXPECT_TRUE(allowed(address));
  for (const char* address :
       {"0.0.0.0:0", "10.0.0.1:80", "[::]:0", "[fe80::1]:1", "example.org:1", "127.example.org:1"}) {
    EXPECT_FALSE(allowed(address)) << address;
    EXPECT_TRUE(CheckPlaintextAddress("grpc-address", address, true).ok());
  }
  EXPECT_THAT(std::string(CheckPlaintextAddress("grpc-address", "0.0.0.0:1", false).message()),
              HasSubstr("--grpc-address: other machines may reach 0.0.0.0:1"));
  EXPECT_THAT(std::string(CheckPlaintextAddress("grpc-address", "nonsense", true).message()),
              HasSubstr("--grpc-address: expected host:port"));
}

}  // namespace
}  // namespace conclave
