const { check, ask, checkFilterValue } = require('../rules');

module.exports = {
  getInitialDataSet: () => [],
  generateKey: () => 'PENDING',
  hasEntries: () => true,
  checkFilterValue,
  async onBeforeAddEntry(keys, entity, request) {
    check(this, 'MaintenanceNotification', entity, request);
    const made = await ask(this, 'notifications', request, entity);
    Object.assign(entity, { NotifProcessingPhase: '1', MaintenanceNotification: made.MaintenanceNotification, LastChangeDateTime: `/Date(${made.LastChangeDateTime}+0000)/` });
  },
};
