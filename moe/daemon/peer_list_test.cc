#include "moe/daemon/peer_list.h"

#include <cstdio>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kInterval = absl::Milliseconds(5);

// A name server in this process.
class Names {
 public:
  void Set(const std::string& host, absl::StatusOr<std::vector<std::string>> addresses) {
    absl::MutexLock lock(&mutex_);
    names_[host] = std::move(addresses);
  }
  PeerList::Resolve Resolve() {
    return [this](const std::string& host) -> absl::StatusOr<std::vector<std::string>> {
      absl::MutexLock lock(&mutex_);
      ++asked_;
      const auto found = names_.find(host);
      if (found == names_.end()) return std::vector<std::string>();
      return found->second;
    };
  }
  // Until it has been asked twice more: whatever was set before has been seen.
  void WaitUntilSeen() {
    absl::MutexLock lock(&mutex_);
    const int enough = asked_ + 2;
    const auto seen = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return asked_ >= enough; };
    mutex_.Await(absl::Condition(&seen));
  }

 private:
  absl::Mutex mutex_;
  int asked_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, absl::StatusOr<std::vector<std::string>>> names_ ABSL_GUARDED_BY(mutex_);
};

bool Becomes(const PeerList& peers, const std::vector<std::string>& addresses) {
  for (int i = 0; i < 4000 && peers.Addresses() != addresses; ++i) absl::SleepFor(absl::Milliseconds(5));
  return peers.Addresses() == addresses;
}

TEST(PeerList, FixedAddressesStayInTheirOrder) {
  const auto peers = PeerList::Start({"b:2", "a:1"}, kInterval);
  EXPECT_FALSE(peers->changes());
  EXPECT_THAT(peers->Addresses(), ElementsAre("b:2", "a:1"));
}

TEST(PeerList, FollowsANameAndKeepsThePortBesideFixedAddresses) {
  Names names;
  names.Set("shards", std::vector<std::string>{"10.0.0.2", "10.0.0.1"});
  const auto peers = PeerList::Start({"z:9", "dns:///shards:7001"}, kInterval, names.Resolve());
  EXPECT_TRUE(peers->changes());
  EXPECT_THAT(peers->Addresses(), ElementsAre("z:9", "10.0.0.1:7001", "10.0.0.2:7001"));
  names.Set("shards", std::vector<std::string>{"10.0.0.2", "fd00::3"});
  EXPECT_TRUE(Becomes(*peers, {"z:9", "10.0.0.2:7001", "[fd00::3]:7001"}));
  names.Set("shards", std::vector<std::string>());
  EXPECT_TRUE(Becomes(*peers, {"z:9"}));
}

TEST(PeerList, ANameServerThatFailsTakesNobodyAway) {
  Names names;
  names.Set("shards", std::vector<std::string>{"10.0.0.1"});
  const auto peers = PeerList::Start({"dns:///shards:7001"}, kInterval, names.Resolve());
  names.Set("shards", absl::UnavailableError("no answer"));
  names.WaitUntilSeen();
  EXPECT_THAT(peers->Addresses(), ElementsAre("10.0.0.1:7001"));
}

TEST(PeerList, FollowsAFileAndKeepsItsPeersWhileItMakesNoSense) {
  const std::string path = TestFolder() + "/peers";
  const auto write = [&](const std::string& text) {
    std::ofstream(path + ".new") << text;
    ASSERT_EQ(std::rename((path + ".new").c_str(), path.c_str()), 0);
  };
  write("b:2  # the second\n\n# none\na:1\n");
  const auto peers = PeerList::Start({absl::StrCat("file://", path)}, kInterval);
  EXPECT_THAT(peers->Addresses(), ElementsAre("a:1", "b:2"));
  write("nonsense\n");
  absl::SleepFor(10 * kInterval);
  EXPECT_THAT(peers->Addresses(), ElementsAre("a:1", "b:2"));
  write("c:3\nb:2\nc:3\n");
  EXPECT_TRUE(Becomes(*peers, {"b:2", "c:3"}));
}

TEST(PeerList, ResolvesThisMachinesNamesByTheSystem) {
  const auto localhost = PeerList::ResolveHost("localhost");
  ASSERT_TRUE(localhost.ok()) << localhost.status();
  EXPECT_THAT(*localhost, ElementsAre(testing::AnyOf("127.0.0.1", "::1")));
  const auto numeric = PeerList::ResolveHost("127.0.0.7");
  ASSERT_TRUE(numeric.ok());
  EXPECT_THAT(*numeric, ElementsAre("127.0.0.7"));
}

TEST(CheckPeers, QuotesWhatIsNoTarget) {
  EXPECT_TRUE(CheckPeers({"a:1", "dns:///a.b.svc:1", "file:///etc/peers"}).ok());
  for (const char* const bad : {"a", "dns:///a", "dns:///:1", "file:///", "a:99999", "https:///a:1"}) {
    EXPECT_EQ(CheckPeers({bad}).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_THAT(std::string(CheckPeers({"a:1", "a:1"}).message()), HasSubstr("a:1 stands there twice"));
  EXPECT_FALSE(PeersChange({"a:1"}));
  EXPECT_TRUE(PeersChange({"a:1", "dns:///a:1"}));
  EXPECT_THAT(PeerList::Start({}, kInterval)->Addresses(), IsEmpty());
}

}  // namespace
}  // namespace conclave
